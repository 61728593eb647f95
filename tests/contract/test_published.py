"""Published names stay: flags, metrics and labels, keys of files, fields of JSON, names in data folders."""

import json

import pytest

from tests.contract.published import FILE, Published, gather

UPDATE = "new names, which can never be removed: add them with `python -m tests.contract.published`"


def lines(published: Published) -> set[str]:
    """Return one line for each name, such as `metrics: sluice_cache_total: outcome`."""
    return {
        f"{kind}: {thing}: {name}"
        for kind, things in published.items()
        for thing, names in things.items()
        for name in ("", *names)
    }


@pytest.mark.slow
def test_published_names_stay() -> None:
    listed, found = lines(json.loads(FILE.read_text())), lines(gather())
    assert not listed - found, "names that users rely on are gone"
    assert not found - listed, UPDATE
