"""`sluice doctor` on a real system, healthy and with a dead reranker."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sluice.client import Document, SearchClient

from tests.support.system import System, running_system


def doctor(system: System, *more: str) -> tuple[int, list[dict[str, str]]]:
    places = {name: process.address for name, process in system.processes.items()}
    flags = [f"--{'address' if name == 'orchestrator' else name}={place}" for name, place in places.items()]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    command = [sys.executable, "-m", "sluice", "doctor", "--json", *flags, *more]
    result = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert not result.stderr
    return result.returncode, json.loads(result.stdout)


@pytest.mark.slow
def test_a_system_is_healthy_until_its_reranker_is_killed(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    with running_system(tmp_path, tiny_bi_encoder) as system:
        with SearchClient(system.address) as client:
            list(client.index("books", [Document("1", "a channel that washes ore")], create=True))
        status, found = doctor(system)
        assert status == 0, found
        about = {one["about"]: one for one in found}
        assert about["search in books"]["text"].startswith("full answer")
        assert "CPU" in next(one["text"] for one in found if one["about"] == "reranking" and "bundle" in one["text"])

        system.kill("reranking")
        status, found = doctor(system, "--metrics", "embedding=127.0.0.1:1")
        assert status == 1
        faults = {one["about"]: one for one in found if one["level"] != "ok"}
        assert faults["reranking"]["level"] == "problem"
        assert "degraded: rerank" in faults["search in books"]["text"]
        assert "metrics of embedding" in faults
        system.restart("reranking")
