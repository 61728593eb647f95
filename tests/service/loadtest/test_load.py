"""Load tests and evaluation against real servers: a few seconds each."""

import csv
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sluice.cli.console import CommandFailed
from typer.testing import CliRunner

from loadtest.__main__ import app
from loadtest.load.calls import Call, Summary
from loadtest.load.command import Options, run_scenario
from loadtest.load.scenario import Scenario, parse
from loadtest.load.targets import Addresses, Texts
from loadtest.report import writer
from loadtest.report.writer import Result
from tests.support.certificates import Authority
from tests.support.judged_collection import write_collection
from tests.support.processes import ServerProcess, running
from tests.support.system import running_system
from tests.support.waiting import GUARD_S, longer_and_longer

# A server may be late on a busy machine: deadlines are no part of these tests, unless they say so.
PATIENT = f"--max-deadline-s={GUARD_S}"
EMBED = {"name": "embed", "rpc": "embed", "deadline_s": GUARD_S}
BULK = {"name": "bulk", "rpc": "embed", "deadline_s": GUARD_S, "concurrency": 2, "texts": "documents", "batch": 4}


class Quiet:
    """Watches a run and shows nothing."""

    def begin(self, name: str, duration_s: float) -> None: ...

    def note(self, calls: Sequence[Call], now_s: float) -> None: ...

    def end(self, summaries: Sequence[Summary]) -> None: ...


class Killer(Quiet):
    """Kills a server once a call was answered."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    def note(self, calls: Sequence[Call], now_s: float) -> None:
        if calls and self._server.popen.poll() is None:
            self._server.kill()


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    return Texts.of(write_collection(tmp_path / "collection"))


def scenario(**fields: Any) -> Scenario:
    return parse({"description": "a test", "outage_s": GUARD_S} | fields, source="test")


def measured(address: str, texts: Texts, wanted: Scenario, workers: int = 1) -> Result:
    """Run a scenario against an embedding server."""
    return run_scenario("test", wanted, texts, Options(Addresses(embed=address), workers=workers), Quiet())


def test_a_run_counts_every_call_and_writes_all_that_is_to_know(
    tiny_bi_encoder: Path, texts: Texts, tmp_path: Path
) -> None:
    with running("services.embedding", "--bundles", str(tiny_bi_encoder), PATIENT) as server:
        for steady_s in longer_and_longer(1.5):
            phases = [
                {"name": "warm-up", "duration_s": 0.5, "rate": 20, "measured": False},
                {"name": "steady", "duration_s": steady_s, "rate": 20},
            ]
            wanted = scenario(workloads=[EMBED | {"arrivals": "constant"}, BULK], phases=phases)
            result = measured(server.address, texts, wanted, workers=2)
            # On a busy machine a run may be over before a call of the bulk workload ends.
            bulk_codes = {call.code for call in result.outcome.calls if call.workload == 1}
            if bulk_codes:
                break
    assert bulk_codes == {"OK"}
    embed, bulk = result.outcome.summaries
    assert (embed.phase, embed.offered) == ("steady", 20 * steady_s)
    assert embed.codes == {"OK": embed.offered}
    assert sum(call.workload == 0 for call in result.outcome.calls) == 10 + embed.offered
    assert bulk.codes.keys() <= {"OK"}, "a call of the bulk workload may outlast the phase on a busy machine"

    page = writer.write(tmp_path / "out", result).read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http-equiv", "")  # one file: nothing is fetched
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["failed"] is None
    assert record["machine"]["cores"] >= 1
    assert record["options"]["distinct_requests"] == {"embed": 40, "bulk": 10}
    with gzip.open(tmp_path / "out" / "calls.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.outcome.calls)
    assert {row["phase"] for row in rows if row["workload"] == "0"} <= {"warm-up", "steady"}
    assert (tmp_path / "out" / "latency" / "steady-embed.hgrm").stat().st_size > 0


def test_capacity_is_found_and_phases_are_its_multiples(tiny_bi_encoder: Path, texts: Texts) -> None:
    wanted = scenario(
        workloads=[EMBED | {"arrivals": "constant"}],
        capacity={
            "slo": {"p99_s": GUARD_S, "error_share": 0.01},
            "low_rate": 10,
            "high_rate": 20,
            "probe_s": 0.5,
            "warm_up_s": 0,
        },
        rate_unit="capacity",
        phases=[{"name": "twice", "duration_s": 1, "rate": 2}],
    )
    with running("services.embedding", "--bundles", str(tiny_bi_encoder), PATIENT) as server:
        outcome = measured(server.address, texts, wanted).outcome
    assert [probe.rate for probe in outcome.probes] == [10, 20]
    assert outcome.capacity == 20
    assert [one.offered for one in outcome.summaries] == [40]


def test_calls_over_their_deadline_are_not_good(tiny_bi_encoder: Path, texts: Texts) -> None:
    wanted = scenario(workloads=[EMBED | {"deadline_s": 1e-6}], phases=[{"name": "p", "duration_s": 0.5, "rate": 20}])
    with running("services.embedding", "--bundles", str(tiny_bi_encoder), PATIENT) as server:
        (one,) = measured(server.address, texts, wanted).outcome.summaries
    assert one.good == 0
    assert one.error_share == 1
    assert one.offered == sum(one.codes.values()) > 0


def test_a_server_that_dies_ends_the_run_without_a_report(tiny_bi_encoder: Path, texts: Texts, tmp_path: Path) -> None:
    wanted = scenario(workloads=[EMBED], phases=[{"name": "p", "duration_s": 60, "rate": 50}], outage_s=0.5)
    with running("services.embedding", "--bundles", str(tiny_bi_encoder), PATIENT) as server:
        options = Options(Addresses(embed=server.address))
        result = run_scenario("test", wanted, texts, options, Killer(server))
    assert "stopped answering" in result.outcome.lost
    assert result.outcome.doubts
    writer.write_raw(tmp_path / "out", result, failed=result.outcome.lost)
    assert "stopped answering" in json.loads((tmp_path / "out" / "run.json").read_text())["failed"]
    assert not (tmp_path / "out" / "report.html").exists()


def test_an_unreachable_target_is_named_before_any_load(texts: Texts) -> None:
    wanted = scenario(workloads=[EMBED], phases=[{"name": "p", "duration_s": 1, "rate": 1}])
    with pytest.raises(CommandFailed, match=r"127\.0\.0\.1:1: embed failed: UNAVAILABLE"):
        measured("127.0.0.1:1", texts, wanted)


def test_a_refusing_target_is_named_before_any_load(tiny_bi_encoder: Path, texts: Texts) -> None:
    wanted = scenario(workloads=[EMBED | {"model": "other"}], phases=[{"name": "p", "duration_s": 1, "rate": 1}])
    with (
        running("services.embedding", "--bundles", str(tiny_bi_encoder), PATIENT) as server,
        pytest.raises(CommandFailed, match="NOT_FOUND: no model 'other'"),
    ):
        measured(server.address, texts, wanted)


def test_a_run_without_a_call_is_refused(tiny_bi_encoder: Path, texts: Texts) -> None:
    wanted = scenario(workloads=[EMBED], phases=[{"name": "p", "duration_s": 1, "rate": 0}])
    with (
        running("services.embedding", "--bundles", str(tiny_bi_encoder), PATIENT) as server,
        pytest.raises(CommandFailed, match="expected at least one call"),
    ):
        measured(server.address, texts, wanted)


@pytest.mark.slow
def test_the_commands_load_and_evaluate_a_whole_system(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "collection")
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "bare", "title": "a title alone", "text": ""}\n{"_id": "blank", "text": " "}\nnonsense\n')
    out = tmp_path / "out"
    with running_system(tmp_path, tiny_bi_encoder, PATIENT) as system:
        where = ["--search", system.address, "--embedding", system.processes["embedding"].address]
        evaluation = ["eval", str(folder), *where, "-c", "docs", "--out", str(out)]
        evaluated = CliRunner().invoke(app, evaluation, catch_exceptions=False)
        assert evaluated.exit_code == 0
        others = [f"--{name}={system.processes[name].address}" for name in ("retrieval", "reranking")]
        wanted = tmp_path / "all.yaml"
        wanted.write_text(
            f"description: each RPC\noutage_s: {GUARD_S}\n"
            "workloads:\n"
            f"  - {{name: search, rpc: search, deadline_s: {GUARD_S}}}\n"
            f"  - {{name: retrieve, rpc: retrieve, deadline_s: {GUARD_S}}}\n"
            f"  - {{name: rerank, rpc: rerank, deadline_s: {GUARD_S}, batch: 4}}\n"
            "phases: [{name: p, duration_s: 2, rate: 5}]\n"
        )
        arguments = ["load", str(wanted), "--data", str(folder), *where, *others, "--out", str(out / "run")]
        loaded = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert loaded.exit_code == 0
    figures = json.loads((out / "eval-collection.json").read_text())
    assert (figures["documents"], figures["queries"], figures["failed"]) == (41, 40, 2)
    assert [failure.get("document_id") or failure["line"] for failure in figures["failures"]] == [43, "blank"]
    assert "2 documents were rejected; all figures exclude them" in evaluated.stderr
    for one in figures["pipelines"].values():
        assert 0 < one["nDCG@10"] <= 1
        assert one["R@50"] >= one["R@10"]
    assert sum(figures["fates"]["default"].values()) == 40
    summaries = json.loads((out / "run" / "run.json").read_text())["summaries"]
    assert {one["workload"] for one in summaries if one["good"] == one["offered"] > 0} == {
        "search",
        "retrieve",
        "rerank",
    }
    assert (out / "run" / "report.html").is_file()


@pytest.mark.slow
def test_weights_are_tuned_on_half_of_the_queries_and_judged_on_the_others(
    tiny_bi_encoder: Path, tmp_path: Path
) -> None:
    folder = write_collection(tmp_path / "collection")
    arguments = ["eval", str(folder), "--tune", "--bundle", str(tiny_bi_encoder), "--out", str(tmp_path / "out")]
    arguments += ["-p", "fast", "--data", str(tmp_path / "kept")]
    tuned = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert tuned.exit_code == 0
    assert "fuse: {method: weighted_sum" in tuned.output
    figures = json.loads((tmp_path / "out" / "tune-collection.json").read_text())["tuned"]["fast"]
    before, after = figures["train"]
    assert 0 < before <= after <= 1
    assert set(figures["weights"]) == {"fuse.dense", "fuse.words"}
    assert any((tmp_path / "kept").iterdir())


def test_a_secured_system_is_loaded_with_a_token_and_a_certificate(
    tiny_bi_encoder: Path, texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sluice_of-a-load-test"
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"- name: load\n  sha256: {hashlib.sha256(secret.encode()).hexdigest()}\n  may: [read]\n")
    authority = Authority(tmp_path / "certificates")
    server, caller = authority.issue("server"), authority.issue("caller")
    flags = {
        "tls-certificate": server.certificate,
        "tls-key": server.key,
        "tls-client-ca": authority.ca,
        "tokens": tokens,
    }
    wanted = scenario(workloads=[EMBED], phases=[{"name": "steady", "duration_s": 1, "rate": 10}])
    options = [f"--{name}={value}" for name, value in flags.items()]
    with running("services.embedding", "--bundles", str(tiny_bi_encoder), PATIENT, *options) as secured:
        with pytest.raises(CommandFailed, match="embed failed"):
            measured(secured.address, texts, wanted)
        for name, value in {
            "TLS_CA": authority.ca,
            "TLS_CERTIFICATE": caller.certificate,
            "TLS_KEY": caller.key,
        }.items():
            monkeypatch.setenv(f"SLUICE_{name}", str(value))
        with pytest.raises(CommandFailed, match="UNAUTHENTICATED"):
            measured(secured.address, texts, wanted)
        monkeypatch.setenv("SLUICE_TOKEN", secret)
        result = measured(secured.address, texts, wanted)
    assert result.outcome.summaries[0].codes.keys() == {"OK"}
    writer.write(tmp_path / "out", result)
    assert not any(secret.encode() in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
