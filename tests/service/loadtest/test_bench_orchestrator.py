"""The benchmark of the orchestrator runs, against downstreams that answer at once, and its searches are whole."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.bench.commands import app


@pytest.mark.slow
def test_the_orchestrators_own_cost_is_measured_with_whole_answers(tmp_path: Path) -> None:
    arguments = ["orchestrator", "--quick", "--callers", "2", "-p", "fast", "-p", "balanced", "--out", str(tmp_path)]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ran.exit_code == 0
    figures = json.loads((tmp_path / "bench-orchestrator-quick.json").read_text())["figures"]
    assert set(figures) == {"fast", "balanced"}
    assert all(0 < one["own_p50_s"] <= one["own_p99_s"] and one["searches_per_s"] > 0 for one in figures.values())
