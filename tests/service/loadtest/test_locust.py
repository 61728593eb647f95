"""Locust drives a real system by loadtest/locustfile.py."""

import csv
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from sluice.client import Document, SearchClient

from tests.support.judged_collection import write_collection
from tests.support.processes import ROOT
from tests.support.require import require
from tests.support.system import running_system
from tests.support.waiting import GUARD_S, longer_and_longer


def locust() -> str:
    """Return the path of Locust, or skip the test; in CI, fail."""
    path = shutil.which("locust", path=f"{ROOT / '.venv/locust/bin'}:{os.environ['PATH']}")
    return require(path, "Locust is not installed: run `make test`")


@pytest.mark.slow
def test_locust_searches_and_counts_what_failed(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    data = write_collection(tmp_path / "collection")
    patient = f"--max-deadline-s={GUARD_S}"
    with running_system(tmp_path / "data", tiny_bi_encoder, patient) as system, SearchClient(system.address) as client:
        assert list(client.index("docs", [Document("a", text="ore is washed")], create=True))
        counted = {}
        for collection in ("docs", "nowhere"):
            command = [locust(), "-f", "loadtest/locustfile.py", "--host", system.address]
            command += ["--data", str(data), "--collection", collection, "--headless", "-u", "4", "-r", "4"]
            command += ["--deadline-s", str(GUARD_S), "--csv", str(tmp_path / collection), "--only-summary"]
            # On a busy machine the time of a run may be over before a search has ended.
            for run_s in longer_and_longer(2):
                timed = [*command, "-t", f"{run_s}s"]
                ran = subprocess.run(timed, check=False, cwd=ROOT, capture_output=True, text=True, timeout=2 * GUARD_S)
                counted[collection] = rows(tmp_path / f"{collection}_stats.csv").get("Search", {})
                if int(counted[collection].get("Request Count", 0)):
                    break
            assert ran.returncode == (0 if collection == "docs" else 1), ran.stderr
    assert int(counted["docs"]["Failure Count"]) == 0
    assert int(counted["nowhere"]["Failure Count"]) == int(counted["nowhere"]["Request Count"])


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as lines:
        return {row["Name"]: row for row in csv.DictReader(lines)}
