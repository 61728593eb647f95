"""`compare` measures every load on both sides, and refuses a load that it does not have."""

import json
from pathlib import Path

import pytest
from sluice.cli.console import CommandFailed
from typer.testing import CliRunner

from loadtest.__main__ import app
from tests.support.judged_collection import write_collection


@pytest.mark.slow
def test_every_load_is_measured_on_both_sides(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    data = write_collection(tmp_path / "collection")
    arguments = ["compare", ".", ".", "--bundle", str(tiny_bi_encoder), "--data", str(data), "--out", str(tmp_path)]
    # The verdict is not what is tested: with so large a tolerance no machine is slow enough to fail.
    ran = CliRunner().invoke(app, [*arguments, "--quick", "--tolerance", "1"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    figures = json.loads((tmp_path / "compare.json").read_text())["figures"]
    assert set(figures) == {"embed-passages", "embed-query", "retrieve", "search", "index"}
    for one in figures.values():
        assert len(one["pairs"]) == 3
        assert all(speed > 0 for pair in one["pairs"] for speed in pair)


def test_a_load_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    arguments = ["compare", ".", ".", "--bundle", str(tmp_path), "--data", str(tmp_path), "--only", "delete"]
    with pytest.raises(CommandFailed, match="--only: expected embed-passages, embed-query"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
