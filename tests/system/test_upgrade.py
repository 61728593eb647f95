"""Files that an earlier release wrote are opened unchanged, and answer as they did there.

`tests/support/upgrade/files.py` says what is in the archive and how it was written.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sluice.client import RetrievalClient

from tests.support.processes import running
from tests.support.upgrade.contents import schema, upsert
from tests.support.upgrade.files import ONE_MODEL_SETTINGS, SNAPSHOT, delete, opened, restore, unpack
from tests.support.upgrade.recorded import answer, changes, differences, recorded
from tests.support.waiting import GUARD_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the files of the earlier release, which stay unchanged."""
    return unpack(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def addresses(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield the addresses of all services, started with the settings of the earlier release."""
    copy = Path(shutil.copytree(files, tmp_path_factory.mktemp("copy") / "files"))
    with opened(copy) as addresses:
        yield addresses


def test_the_data_folder_of_a_killed_server_has_the_same_answers(files: Path, addresses: dict[str, str]) -> None:
    assert not changes(files / "data.jsonl", addresses)


def test_bundles_pipelines_tokens_and_settings_have_the_same_answers(files: Path, addresses: dict[str, str]) -> None:
    assert not changes(files / "system.jsonl", addresses)


def test_the_gateway_of_one_model_has_the_same_answers(files: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(files, tmp_path / "files"))
    with opened(copy, settings_file=ONE_MODEL_SETTINGS) as addresses:
        assert not changes(files / "one-model.jsonl", addresses)


def test_a_restored_snapshot_has_the_same_answers(files: Path, tmp_path: Path) -> None:
    restore(files / "snapshots" / SNAPSHOT, tmp_path / "data")
    with running("services.retrieval", f"--data={tmp_path / 'data'}") as server:
        assert not changes(files / "snapshot.jsonl", {"retrieval": server.address})


def test_exact_answers_stay_when_an_earlier_data_folder_is_written_and_compacted(files: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(files / "data", tmp_path / "data"))
    exact = [pair for pair in recorded(files / "data.jsonl") if pair[0].request.get("exact") and "response" in pair[1]]
    assert len(exact) > 10
    with running("services.retrieval", f"--data={data}", "--segment-documents=20") as server:
        with RetrievalClient(server.address, timeout_s=GUARD_S) as client:
            client.upsert(upsert("books", schema(), 3, 3))
            client.upsert(upsert("books", schema(), 61, 1, revision=1))
            assert client.count("books") == 66
            client.optimize_collection("books")
            delete(client, "books", ["d003", "d004", "d005", "d061"])
        for call, before in exact:
            found = answer(call, server.address)
            assert found["response"].pop("collection_version") > before["response"].pop("collection_version")
            assert not [*differences(before, found)], call
