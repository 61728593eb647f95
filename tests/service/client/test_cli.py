"""The command line as a process: its output and its exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from sluice.client import Document, RetrievalClient, where
from sluice.client.documents import document_proto
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.model_pb2 import WINDOW_AGGREGATION_MAX, Windows
from sluice.errors import InvalidRequest, NotFound, Unavailable, Violation
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.background import in_background
from tests.support.fake_services import HashingEmbedder, embedding_server
from tests.support.scripted_search import ScriptedSearch
from tests.support.servers import reranking_address, retrieval_address

NOWHERE = "127.0.0.1:1"
ANSWER = pb.SearchResponse(
    results=[
        pb.Result(
            document=document_proto(Document("q.get", "Remove it.\n\nWait [for] it.", "Queue.get", {"year": 2024})),
            score=0.875,
        ),
        pb.Result(document=document_proto(Document("plain", "No title.")), score=0.5),
    ],
    stages=[
        pb.StageReport(
            stage="embed",
            status=pb.StageReport.STATUS_OK,
            duration=Duration(nanos=2_500_000),
            truncated_count=1,
            dropped_token_count=9,
        ),
        pb.StageReport(stage="dense", status=pb.StageReport.STATUS_OK, kept_count=50),
        pb.StageReport(
            stage="rerank",
            status=pb.StageReport.STATUS_SKIPPED,
            given_count=50,
            kept_count=50,
            reason="BUSY: wait",
        ),
    ],
    degraded=True,
    coverage=0.5,
    pipeline="default",
    duration=Duration(nanos=9_000_000),
)


def sluice(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    return subprocess.run(
        [sys.executable, "-m", "sluice", *arguments],
        check=False,
        capture_output=True,
        text=True,
        input=stdin,
        timeout=60,
        env=clean | {"COLUMNS": "100", "NO_COLOR": "1"} | environment,
    )


@pytest.fixture
def search() -> ScriptedSearch:
    return ScriptedSearch(answer=ANSWER)


@pytest.fixture
def address(search: ScriptedSearch) -> Iterator[str]:
    with in_background(search.served()) as address:
        yield address


def test_search_prints_rank_score_title_passage_and_stages(search: ScriptedSearch, address: str) -> None:
    ran = sluice("search", "how", "-c", "books", "-k", "2", "--filter", "year >= 2020", SLUICE_ADDRESS=address)
    assert ran.returncode == 0, ran.stderr
    lines = [line.rstrip() for line in ran.stdout.splitlines()]
    assert lines == [
        " 1  0.8750  Queue.get  q.get",
        "    Remove it.",
        "",
        "    Wait [for] it.",
        "    year: 2024",
        "",
        " 2  0.5000  plain",
        "    No title.",
        "",
        "degraded: rerank skipped: BUSY: wait",
        "coverage: 50% of the planned work",
        "embed 2.5 ms, 1 truncated · dense 0.0 ms, 50 found · rerank 0.0 ms, 50 → 50 (skipped) · 9.0 ms in",
        "all (default)",
    ]
    [request] = search.requests
    assert request == pb.SearchRequest(collection="books", query="how", top_k=2, filter=where("year >= 2020"))


def test_search_sends_other_wordings(search: ScriptedSearch, address: str) -> None:
    ran = sluice("search", "how", "--also", "in what way", "--also", "by what means", "--address", address)
    assert ran.returncode == 0, ran.stderr
    assert list(search.requests[0].more_queries) == ["in what way", "by what means"]


def test_search_as_json(address: str) -> None:
    ran = sluice("search", "how", "--json", "--address", address)
    answer = json.loads(ran.stdout)
    assert answer["results"][0]["document"]["document_id"] == "q.get"
    assert answer["results"][0]["document"]["metadata"] == {"year": 2024.0}
    assert answer["stages"][2]["status"] == "skipped"
    assert (answer["degraded"], answer["coverage"]) == (True, 0.5)


def test_search_can_ask_for_one_chunk_of_each_document(search: ScriptedSearch, address: str) -> None:
    assert sluice("search", "how?", "--by-parent", "--address", address).returncode == 0
    assert search.requests[-1].group_by_parent


def test_index_sends_how_to_split_documents(search: ScriptedSearch, address: str, tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text('{"id": "1", "text": "one"}\n')
    chunks = ("--chunk-tokens", "200", "--chunk-overlap", "20")
    assert sluice("index", str(file), *chunks, "--address", address).returncode == 0
    assert search.openings[-1].chunking == pb.Chunking(token_count=200, overlap_token_count=20)
    assert sluice("index", str(file), "--address", address).returncode == 0
    assert not search.openings[-1].HasField("chunking")


def test_search_says_when_nothing_is_found(search: ScriptedSearch, address: str) -> None:
    search.answer = pb.SearchResponse()
    assert "nothing found" in sluice("search", "how", "--address", address).stdout


def test_a_failure_says_what_failed_and_what_to_do(search: ScriptedSearch, address: str) -> None:
    reason = ErrorReason.ERROR_REASON_UNKNOWN_COLLECTION
    search.refusals = [NotFound("no collection 'docs'", reason=reason)]
    ran = sluice("search", "how", "--address", address)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines() == [
        "error: no collection 'docs'",
        "next: `sluice collections list` shows the collections; `sluice index FILE --create` creates one",
    ]


def test_a_failure_lists_every_invalid_field(search: ScriptedSearch, address: str) -> None:
    violations = [Violation("query", "too long"), Violation("top_k", "too many")]
    search.refusals = [InvalidRequest("query: too long (and 1 more)", violations=violations)]
    ran = sluice("search", "how", "--address", address)
    assert ran.returncode == 1
    assert "field: query: too long" in ran.stderr
    assert "field: top_k: too many" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["search", "how", "--address", NOWHERE, "--timeout", "1"], 1, "`sluice up` starts a system"),
        (["search", "how", "--filter", "year >="], 1, "expected a value"),
        (["search"], 2, "Missing argument"),
        (["search", "how", "-k", "0"], 2, "Invalid value"),
        (["nonsense"], 2, "No such command"),
        (["index", "no-such-file.jsonl"], 1, "No such file"),
        (["index", "-", "--filterable", "year"], 2, "expected NAME=TYPE"),
        (["delete"], 2, "give identifiers or --filter, not both"),
        (["delete", "a", "--filter", "a == 1"], 2, "give identifiers or --filter, not both"),
        (["up", "--bundle", "no-such-bundle"], 1, "expected a bundle folder, found no bundle.json"),
        (["up"], 1, "found 0: choose with --bundle"),
        (["status", "--address", NOWHERE], 1, "not all services serve"),
    ],
)
def test_wrong_arguments_end_with_an_exit_code_and_no_traceback(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    ran = sluice(*arguments, SLUICE_HOME=str(tmp_path))
    assert ran.returncode == status
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", ["search", "index", "delete", "up", "demo"])
def test_help_shows_an_example(command: str) -> None:
    ran = sluice(command, "--help")
    assert ran.returncode == 0
    assert f"sluice {command}" in ran.stdout


@pytest.fixture
def added(tmp_path: Path) -> str:
    """A path with a package that adds the commands `hello` and `broken` to `sluice`."""
    (tmp_path / "hello.py").write_text("def hello(name: str = 'you') -> None:\n    print(f'hello, {name}')\n")
    metadata = tmp_path / "hello-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hello\nVersion: 1\n")
    points = "[sluice.commands]\nhello = hello:hello\nbroken = not_there:broken\n"
    (metadata / "entry_points.txt").write_text(points)
    return os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))


def test_another_package_adds_a_command_by_an_entry_point(added: str) -> None:
    assert " hello " in sluice("--help", PYTHONPATH=added).stdout
    ran = sluice("hello", "--name", "Ada", PYTHONPATH=added)
    assert (ran.returncode, ran.stdout) == (0, "hello, Ada\n"), ran.stderr
    assert "--name" in sluice("hello", "--help", PYTHONPATH=added).stdout


def test_a_command_that_cannot_be_imported_says_what_it_needs(added: str) -> None:
    ran = sluice("broken", PYTHONPATH=added)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "`sluice broken` needs not_there, which is not installed" in ran.stderr


def test_a_mistyped_command_gets_a_suggestion() -> None:
    ran = sluice("statu")
    assert ran.returncode == 2
    assert "Did you mean 'status'?" in ran.stderr


def test_version() -> None:
    assert sluice("--version").stdout.startswith("sluice ")


def test_index_reads_lines_and_reports_those_that_failed(search: ScriptedSearch, address: str, tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text(
        '{"_id": "a", "text": "x", "metadata": {"on": "2024-05-01"}}\n\nnonsense\n{"id": "b", "text": "y"}\n'
    )
    ran = sluice("index", str(file), "-c", "books", "--create", "--filterable", "on=timestamp", "--address", address)
    assert ran.returncode == 3
    assert "2 indexed, 0 unchanged, 1 failed" in ran.stdout
    assert "line 3: Expecting value" in ran.stderr
    assert search.documents["a"].metadata["on"].WhichOneof("value") == "timestamp_value"
    fields = [pb.FilterableField(name="on", type="timestamp")]
    assert search.openings == [pb.IndexRequest(collection="books", create_collection=True, filterable_fields=fields)]


def test_index_asks_for_windows_and_counts_what_was_truncated(
    search: ScriptedSearch, address: str, tmp_path: Path
) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(f'{{"id": "{name}", "text": "x"}}\n' for name in "abc"))
    search.dropped = {"a": 1000, "c": 234}
    ran = sluice("index", str(file), "--windows", "--window-overlap", "8", "--window-aggregation", "max", **at(address))
    assert ran.returncode == 0, ran.stderr
    assert "2 of 3 documents are longer than the model reads: 1,234 tokens were truncated." in ran.stderr
    windows = Windows(overlap_token_count=8, aggregation=WINDOW_AGGREGATION_MAX)
    assert search.openings == [pb.IndexRequest(collection="docs", windows=windows)]
    search.documents.clear()
    ran = sluice("index", str(file), "--json", **at(address))
    assert json.loads(ran.stdout).items() >= {"indexed": 3, "truncated": 2, "dropped_tokens": 1234}.items()
    assert not search.openings[1].HasField("windows")
    ran = sluice("index", str(file), "--window-overlap", "8", **at(address))
    assert (ran.returncode, "give --windows too" in ran.stderr) == (2, True)


def at(address: str) -> dict[str, str]:
    """The environment with the address of the orchestrator."""
    return {"SLUICE_ADDRESS": address}


def test_index_goes_on_past_lines_that_cannot_be_sent_and_lists_them_as_json(
    search: ScriptedSearch, address: str, tmp_path: Path
) -> None:
    file = tmp_path / "corpus.jsonl"
    lines = [
        b'\xef\xbb\xbf{"id": "a", "text": "x"}',
        b'{"id": "half", "text": "\\ud800"}',
        b'{"id": "\\udfff", "text": "x"}',
        b'{"id": "bytes", "text": "\xff"}',
        b"[" * 100_000,
        b'{"id": "deep", "text": "x", "metadata": {"on": ' + b"[" * 500 + b"]" * 500 + b"}}",
        b'{"id": "early", "text": "x", "metadata": {"on": "0001-01-01T00:00:00+23:59"}}',
        b'{"id": "names", "text": "x", "metadata": {"\\ud800": 1}}',
        b'{"id": "object", "text": "x", "metadata": {"m": {"a": 1}}}',
        b'{"id": "title", "title": "only a title"}',
    ]
    file.write_bytes(b"\n".join(lines))
    ran = sluice("index", str(file), "--create", "--filterable", "on=timestamp", "--json", "--address", address)
    assert ran.returncode == 3, ran.stderr
    summary = json.loads(ran.stdout)
    assert (summary["indexed"], summary["unchanged"], summary["failed"]) == (2, 0, 8)
    ids = {failure.get("document_id", failure.get("line")) for failure in summary["failures"]}
    assert ids == {"half", "\udfff", "bytes", 5, "early", "names", "object", 6}
    assert set(search.documents) == {"a", "title"}
    assert "8 documents were rejected; all others are stored" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["search", b"half a word: \xff"], 1, "expected arguments that can be written as utf-8, got '\\udcff'"),
        (["search", "a word", "-c", b"\xff"], 1, "expected arguments that can be written as utf-8"),
        (["delete", b"\xff"], 1, "expected arguments that can be written as utf-8"),
        (["search", "a word", "-k", "99999999999"], 2, "Invalid value"),
        (["index", "-", "--chunk-tokens", "99999999999"], 2, "Invalid value"),
    ],
)
def test_arguments_that_cannot_be_sent_are_refused(
    search: ScriptedSearch, address: str, arguments: list[Any], status: int, told: str
) -> None:
    given = [os.fsdecode(argument) for argument in arguments]
    ran = sluice(*given, "--address", address)
    assert ran.returncode == status, ran.stderr
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr


def test_index_from_standard_input(search: ScriptedSearch, address: str) -> None:
    ran = sluice("index", "-", "--address", address, stdin='{"id": "a", "text": "x"}\n')
    assert ran.returncode == 0, ran.stderr
    assert list(search.documents) == ["a"]


def test_index_that_cannot_go_on_says_why(search: ScriptedSearch, address: str) -> None:
    ran = sluice("index", "-", "--address", NOWHERE, "--patience", "0.5", stdin='{"id": "a", "text": "x"}\n')
    assert ran.returncode == 1
    assert "next: check the address and `sluice status`" in ran.stderr


def test_delete_and_pipelines(search: ScriptedSearch, address: str) -> None:
    search.documents["a"] = document_proto(Document("a", "x"))
    assert sluice("delete", "a", "b", "--address", address).stdout == "1 deleted\n"
    assert "dense (retrieve, 50)" in sluice("pipelines", "--address", address).stdout


def test_collections(tmp_path: Path) -> None:
    schema = retrieval_pb.Schema(dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=64)])
    with in_background(retrieval_address(tmp_path)) as address, RetrievalClient(address) as client:
        client.create_collection("books", schema)
        assert "books" in sluice("collections", "list", "--retrieval", address).stdout
        described = json.loads(sluice("collections", "describe", "books", "--retrieval", address).stdout)
        assert described["schema"]["dense_fields"][0]["dimensions"] == 64
        asked = sluice("collections", "drop", "books", "--retrieval", address, stdin="n\n")
        assert asked.returncode == 1
        assert len(client.collections()) == 1
        assert "dropped" in sluice("collections", "drop", "books", "--yes", "--retrieval", address).stdout
        assert not client.collections()


def test_collections_are_optimized(tmp_path: Path) -> None:
    schema = retrieval_pb.Schema(dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=64)])
    with in_background(retrieval_address(tmp_path)) as address, RetrievalClient(address) as client:
        client.create_collection("books", schema)
        ran = sluice("collections", "optimize", "books", SLUICE_RETRIEVAL_ADDRESS=address)
        assert ran.returncode == 0, ran.stderr
        assert "before" in ran.stdout
        assert "after" in ran.stdout
        unknown = sluice("collections", "optimize", "none", SLUICE_RETRIEVAL_ADDRESS=address)
        assert unknown.returncode == 1
        assert "no collection 'none'" in unknown.stderr


def test_snapshots(tmp_path: Path) -> None:
    schema = retrieval_pb.Schema(dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=64)])
    server = retrieval_address(tmp_path / "data", snapshots=tmp_path / "snapshots")
    with in_background(server) as address, RetrievalClient(address) as client:
        client.create_collection("books", schema)
        assert sluice("snapshots", "create", "--name", "one", "--retrieval", address).returncode == 0
        second = sluice("snapshots", "create", "--keep", "1", SLUICE_RETRIEVAL_ADDRESS=address)
        assert second.returncode == 0, second.stderr
        assert "one deleted" in second.stdout
        (kept,) = json.loads(sluice("snapshots", "list", "--json", "--retrieval", address).stdout)
        assert kept["name"] in second.stdout
        assert kept["digest"][:12] in sluice("snapshots", "list", "--retrieval", address).stdout
        assert sluice("snapshots", "delete", kept["name"], "--retrieval", address).returncode == 0
        assert sluice("snapshots", "delete", kept["name"], "--retrieval", address).returncode == 1
        assert not client.snapshots()


def test_snapshots_where_no_folder_is_set_end_with_1_and_what_to_set(tmp_path: Path) -> None:
    with in_background(retrieval_address(tmp_path)) as address:
        ran = sluice("snapshots", "create", "--keep", "7", "--retrieval", address)
        assert ran.returncode == 1
        assert "SLUICE_RETRIEVAL_SNAPSHOTS" in ran.stderr


def test_models(tiny_bi_encoder: Path) -> None:
    with (
        in_background(embedding_server(HashingEmbedder())) as embedding,
        in_background(reranking_address(tiny_bi_encoder)) as reranking,
    ):
        listed = sluice("models", "--embedding", embedding, "--reranking", reranking).stdout
    assert "hashing@1" in listed
    assert "late interaction" in listed


def test_demo_corpus_is_lines_that_index_reads() -> None:
    lines = sluice("demo-corpus").stdout.splitlines()
    assert len(lines) > 2000
    assert json.loads(lines[0])["id"].startswith("topic:")


def test_a_reader_that_closes_the_pipe_causes_no_error() -> None:
    command = f"{sys.executable} -m sluice demo-corpus | head -1"
    ran = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert ran.stderr == ""


def test_unavailable_is_tried_again(search: ScriptedSearch, address: str) -> None:
    search.refusals = [Unavailable("busy")]
    assert sluice("search", "how", "--address", address).returncode == 0
