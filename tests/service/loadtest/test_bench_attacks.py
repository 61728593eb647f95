"""The benchmark of attacks runs: small ones, against a whole system, with verdicts."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loadtest.bench.commands import app
from tests.support.judged_collection import write_collection


@pytest.mark.slow
def test_an_attack_is_sent_and_measured_while_others_are_served(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    data = write_collection(tmp_path / "collection", count=60)
    small = ["--only", "gzip", "--settle-s", "0", "-p", "unpacked_mb=2", "-p", "calls=2", "-p", "at_once=2"]
    where = ["--bundle", str(tiny_bi_encoder), "--data", str(data), "--out", str(tmp_path)]
    ran = CliRunner().invoke(app, ["attacks", "--json", *small, *where])
    figures = json.loads(ran.stdout)
    assert figures == json.loads((tmp_path / "bench-attacks.json").read_text())["figures"]
    assert list(figures) == ["gzip"]
    one = figures["gzip"]
    assert ran.exit_code == (1 if one["broken"] else 0), ran.output
    assert one["parameters"]["unpacked_mb"] == 2
    assert one["probes"] > 0
    assert set(one["remaining"]) == {"gateway", "orchestrator", "embedding", "retrieval", "reranking"}
    assert all(sent(step) for step in one["steps"]), one["steps"]


def sent(step: dict[str, Any]) -> bool:
    """Whether the servers answered: a status is none of those that mean that the attack never reached them."""
    return bool(step["answers"]) and not step["answers"].keys() & {"CLOSED", "TIMEOUT", "UNAVAILABLE"}
