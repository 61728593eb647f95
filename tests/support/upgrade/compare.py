"""Compare the searches of two checkouts and of their mixtures: the orchestrator of one with the services of the other.

    python -m tests.support.upgrade.compare OLD NEW --data FOLDER [--bundle FOLDER]

Starts embedding, retrieval and reranking of one checkout with the orchestrator and the gateway of another, in all four
combinations. Each indexes the same documents and answers the same queries by every packaged pipeline, over gRPC and
over HTTP. The command fails if any answer differs from that of OLD alone: documents, scores, models, stages, errors.

FOLDER is a collection in BEIR's layout: `corpus.jsonl` (or `.jsonl.gz`) and `queries.jsonl`. Both checkouts run with
the packages of this environment. `git worktree add OLD COMMIT` makes an older checkout.
"""

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import yaml
from sluice.client import Document, SearchClient
from sluice.search.v1 import search_service_pb2 as pb

from services.orchestrator.pipelines.schema import PACKAGED
from tests.support.processes import ROOT, ServerProcess, start
from tests.support.upgrade.recorded import GATEWAY, Call, answer, differences, rpc

TOLERANCE: Final = 1e-6
_FLAGS: Final = ("--max-deadline-s=300",)
_FIELDS: Final = '--index-fields=["dense","text","multi_vector"]'
# Versions count batches, whose number depends on time. Descriptions are texts for people, which may be improved.
_NOT_COMPARED: Final = {"collection_version", "description"}

Answers = list[tuple[Call, dict[str, Any]]]


@dataclass(frozen=True)
class Corpus:
    """The documents that are indexed, and the queries."""

    documents: Sequence[Document]
    queries: Sequence[str]


def read_corpus(folder: Path, documents: int, queries: int) -> Corpus:
    """Return the first documents and queries of a collection in BEIR's layout."""
    passages = [
        Document(one["_id"], one["text"], title=one.get("title", ""), metadata={"source": f"part {number % 3}"})
        for number, one in enumerate(_lines(folder / "corpus.jsonl", documents))
    ]
    return Corpus(passages, [one["text"] for one in _lines(folder / "queries.jsonl", queries)])


def _lines(path: Path, count: int) -> list[dict[str, Any]]:
    packed = path.with_name(f"{path.name}.gz")
    with gzip.open(packed, "rt", encoding="utf-8") if packed.exists() else path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, count)]


def calls_of(corpus: Corpus, collection: str) -> Iterator[Call]:
    """Yield a search for each query and packaged pipeline, some by HTTP, and calls that are rejected."""
    for pipeline in yaml.safe_load(PACKAGED.read_text()):
        for number, query in enumerate(corpus.queries):
            if number % 3 == 2:
                body = {"query": query, "collection": collection, "pipeline": pipeline, "filter": "source == 'part 1'"}
                yield Call(GATEWAY, "POST /search", body)
            else:
                request = pb.SearchRequest(collection=collection, query=query, pipeline=pipeline, top_k=10)
                yield rpc("orchestrator", "Search", request)
    yield rpc("orchestrator", "ListPipelines", pb.ListPipelinesRequest())
    yield rpc("orchestrator", "Search", pb.SearchRequest(collection="missing", query="x"))
    yield rpc("orchestrator", "Search", pb.SearchRequest(collection=collection, query="x", pipeline="missing"))
    yield rpc("orchestrator", "Search", pb.SearchRequest(collection=collection, query=" ", top_k=-1))


@contextmanager
def services(checkout: Path, bundle: Path, data: Path) -> Iterator[dict[str, str]]:
    """Start the three inner services of a checkout, and yield their addresses."""
    flags = {"embedding": f"--bundles={bundle}", "reranking": f"--bundles={bundle}", "retrieval": f"--data={data}"}
    with ExitStack() as stack:
        yield {name: stack.enter_context(_running(checkout, name, flag)).address for name, flag in flags.items()}


@contextmanager
def _running(checkout: Path, name: str, *flags: str) -> Iterator[ServerProcess]:
    process = start(f"services.{name}", *flags, *_FLAGS, checkout=checkout)
    try:
        yield process
    finally:
        process.terminate()


def answers_of(checkout: Path, inner: Mapping[str, str], corpus: Corpus, collection: str) -> Answers:
    """Index the documents and search them with a checkout's orchestrator and gateway over running services."""
    flags = [f"--{name}={address}" for name, address in inner.items()]
    with _running(checkout, "orchestrator", *flags, _FIELDS) as orchestrator:
        flags.append(f"--orchestrator={orchestrator.address}")
        with _running(checkout, "gateway", *flags) as gateway, SearchClient(orchestrator.address) as client:
            index = client.index(collection, corpus.documents, create=True, filterable_fields={"source": "string"})
            outcomes = {one.outcome for one in index}
            assert outcomes == {"indexed"}, outcomes
            addresses = {"orchestrator": orchestrator.address, GATEWAY: gateway.address}
            return [(call, answer(call, addresses[call.service])) for call in calls_of(corpus, collection)]


def all_answers(checkouts: Mapping[str, Path], bundle: Path, corpus: Corpus) -> dict[tuple[str, str], Answers]:
    """Return the answers of each orchestrator with each checkout's services, by their names."""
    found = {}
    for inner_name, inner in checkouts.items():
        with (
            tempfile.TemporaryDirectory(prefix="sluice-compare-") as folder,
            services(inner, bundle, Path(folder, "data")) as addresses,
        ):
            for name, checkout in checkouts.items():
                sys.stderr.write(f"orchestrator {name} with services {inner_name}\n")
                found[name, inner_name] = answers_of(checkout, addresses, corpus, f"by-{name.lower()}")
    return found


def unlike(expected: Answers, found: Answers) -> list[str]:
    """Return a line for each answer that differs in a field that is compared."""
    return [
        f"{call.method} {json.dumps(call.request)[:200]}: {difference}"
        for (call, before), (_, after) in zip(expected, found, strict=True)
        for difference in islice(differences(_compared(before), _compared(after), tolerance=TOLERANCE), 1)
    ]


def _compared(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_compared(one) for one in tree]
    if isinstance(tree, dict):
        return {key: _compared(value) for key, value in tree.items() if key not in _NOT_COMPARED}
    return tree


def main() -> int:
    """Run the command. Return 1 if an answer differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW", nargs="?", default=ROOT)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="collection in BEIR's layout")
    bundle = ROOT / ".demo" / "bundles" / "all-MiniLM-L6-v2" / "1"
    parser.add_argument("--bundle", type=Path, default=bundle, metavar="FOLDER", help="bundle of a bi-encoder")
    parser.add_argument("--documents", type=int, default=200, metavar="N")
    parser.add_argument("--queries", type=int, default=12, metavar="N")
    given = parser.parse_args()
    corpus = read_corpus(given.data, given.documents, given.queries)
    found = all_answers({"OLD": given.old.resolve(), "NEW": given.new.resolve()}, given.bundle.resolve(), corpus)
    return report(found)


def report(found: Mapping[tuple[str, str], Answers]) -> int:
    """Print a line for each combination and each difference. Return 1 if there is a difference."""
    sys.stdout.write(f"{'orchestrator, gateway':24}{'services':10}{'calls':>7}{'degraded':>10}{'differ':>8}\n")
    different = []
    for (name, inner), answers in found.items():
        lines = unlike(found["OLD", "OLD"], answers)
        degraded = sum(bool(_body(one).get("degraded")) for _, one in answers)
        sys.stdout.write(f"{name:24}{inner:10}{len(answers):7}{degraded:10}{len(lines):8}\n")
        different += [f"orchestrator {name}, services {inner}: {line}" for line in lines]
    sys.stdout.writelines(f"{line}\n" for line in different)
    return int(bool(different))


def _body(found: Mapping[str, Any]) -> Mapping[str, Any]:
    body: Mapping[str, Any] = found.get("response") or found.get("body") or {}
    return body


if __name__ == "__main__":
    sys.exit(main())
