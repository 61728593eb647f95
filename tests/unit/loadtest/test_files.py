"""Collections and scenarios: what is right is read, what is wrong is named by its place."""

import gzip
from pathlib import Path

import pytest
from sluice.cli.console import CommandFailed
from sluice.client import Document

from loadtest import collection
from loadtest.collection import CollectionError
from loadtest.load import scenario
from loadtest.quality.judged_collection import read
from tests.support.judged_collection import write_collection


def test_a_collection_is_read_plain_or_compressed(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "c", 5)
    documents = collection.corpus(folder).documents
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    (folder / "corpus.jsonl").unlink()
    assert collection.corpus(folder).documents == documents
    assert len(documents) == 5
    assert len(collection.queries(folder)) == 5
    judged = read(folder, "test", "")
    assert judged.qrels["q0"] == {next(iter(documents)): 1}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "Expecting property name"),
        (b"[1]", "expected an object, got list"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"text": "no id"}', 'expected an "id" or "_id"'),
        (b'{"_id": "a", "text": 7}', 'expected "text" to be a text, got int'),
        (b'{"_id": "first", "text": "again"}', "expected each _id once, got 'first' again; the first is used"),
    ],
)
def test_a_line_of_a_corpus_that_is_no_document_is_refused_alone(tmp_path: Path, line: bytes, told: str) -> None:
    first, last = b'{"_id": "first", "text": "t"}', b'{"_id": "last", "title": "T", "text": null}'
    (tmp_path / "corpus.jsonl").write_bytes(b"\n".join([first, b"", line, last]))
    read = collection.corpus(tmp_path)
    assert read.documents == {"first": Document("first", "t"), "last": Document("last", "", "T")}
    [refused] = read.refused
    assert refused.line == 3
    assert told in refused.message


def test_a_corpus_without_any_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("[]\n")
    with pytest.raises(CollectionError, match="found none; line 1: expected an object, got list"):
        collection.corpus(tmp_path)


def test_a_corpus_that_is_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"_id": "a", "text": "t"}\n' * 1000)
    damaged = whole[:20] + bytes(byte ^ 255 for byte in whole[20:])
    for content in (whole[:-10], damaged, b"no gzip"):
        (tmp_path / "corpus.jsonl.gz").write_bytes(content)
        with pytest.raises(CollectionError, match=r"corpus\.jsonl\.gz: expected UTF-8 text"):
            collection.corpus(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("queries.jsonl", '{"_id": "q", "text": " "}\n', "queries.jsonl:1: expected a query, got an empty text"),
        ("queries.jsonl", "", "expected queries in queries.jsonl, found none"),
        ("qrels/test.tsv", "h\nq0\td\n", "test.tsv:2: expected query, document and score between tabs"),
        ("qrels/test.tsv", "h\nq0\td\thigh\n", "test.tsv:2: expected a whole number as score, got 'high'"),
        ("qrels/test.tsv", "h\n", "test.tsv: expected judgments, found none"),
        ("qrels/test.tsv", "h\nq0\tnowhere\t1\n", "test.tsv: document: expected known ids, got 1 unknown ones"),
        ("qrels/test.tsv", "h\nq99\tx\t1\n", "test.tsv: query: expected known ids, got 1 unknown ones, such as q99"),
    ],
)
def test_malformed_queries_and_judgments_are_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    folder = write_collection(tmp_path / "c", 3)
    (folder / name).write_text(text)
    with pytest.raises(CommandFailed) as caught:
        read(folder, "test", "")
    assert told in str(caught.value)


def test_missing_files_are_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"expected corpus\.jsonl or corpus\.jsonl\.gz, found neither"):
        collection.corpus(tmp_path)
    folder = write_collection(tmp_path / "c", 3)
    with pytest.raises(CollectionError, match=r"dev\.tsv: expected a file of judgments, found none; there is test"):
        collection.qrels(folder, "dev")


@pytest.mark.parametrize("name", scenario.names())
def test_packaged_scenarios_are_right(name: str) -> None:
    one = scenario.load(name)
    assert one.description
    assert sum(phase.duration_s for phase in one.sped_up(10).phases) <= sum(phase.duration_s for phase in one.phases)


WORKLOAD = {"name": "w", "rpc": "search", "deadline_s": 1}
PHASE = {"name": "p", "duration_s": 1, "rate": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "s: the whole: Input should be"),
        ({"description": "d", "workloads": []}, "s: workloads: Tuple should have at least 1 item"),
        ({"description": "d", "workloads": [WORKLOAD]}, "s: phases: expected at least one"),
        ({"description": "d", "workloads": [WORKLOAD | {"rpc": "fly"}]}, "s: workloads.0.rpc: Input should be"),
        ({"description": "d", "workloads": [WORKLOAD, WORKLOAD], "phases": [PHASE]}, "expected different names"),
        ({"description": "d", "workloads": [WORKLOAD], "phases": [PHASE | {"only": ["x"]}]}, "phases.p.only: expected"),
        ({"description": "d", "workloads": [WORKLOAD], "phases": [PHASE], "rate_unit": "capacity"}, "rate_unit:"),
        ({"description": "d", "workloads": [WORKLOAD | {"arrivals": "recorded"}], "phases": [PHASE]}, "w.recording:"),
        ({"description": "d", "workloads": [WORKLOAD], "phases": [PHASE | {"rate": -1}]}, "s: phases.0.rate: "),
    ],
)
def test_scenarios_that_make_no_sense_are_refused(content: object, told: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        scenario.parse(content, source="s")
    assert told in str(caught.value)


def test_an_unknown_scenario_names_those_there_are() -> None:
    with pytest.raises(CommandFailed, match=r"expected a scenario .*steady"):
        scenario.load("nowhere")
