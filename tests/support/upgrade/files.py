"""Write the files of a release and its answers about them, for the tests that a later release opens them unchanged.

    python -m tests.support.upgrade.files CHECKOUT tests/data/files-VERSION.tar.xz

All is written by programs of CHECKOUT, a work tree of the release: run as `python -m services.NAME` and
`python -m export` there. The archive has:

    data/             retrieval's folder, as a killed server left it: collections of every kind of field, a compacted
                      segment, deletions, replacements and writes after it in the write-ahead log, aliases
    snapshots/first/  a snapshot from before the last writes
    bundles/          a bi-encoder, a sparse encoder and a cross-encoder, with random weights
    pipelines.yaml    with every stage and key
    tokens.yaml       with every key
    settings*.json    the environment of each process
    *.jsonl           requests and the answers of the release: about the data folder, the restored snapshot, the whole
                      system, and the gateway of a system with one model in each service
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from sluice.client import Chunking, Document, RetrievalClient, SearchClient
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from tests.support.processes import ROOT, ServerProcess, environment_of, start
from tests.support.upgrade import contents
from tests.support.upgrade.recorded import record
from tests.support.upgrade.requests import gateway_calls, retrieval_calls, system_calls

ARCHIVE: Final = ROOT / "tests" / "data" / "files-0.1.0.tar.xz"
SNAPSHOT: Final = "first"
SETTINGS: Final = "settings.json"
ONE_MODEL_SETTINGS: Final = "settings-one-model.json"
_SEGMENT_DOCUMENTS: Final = 20
_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 48,
    "initializer_range": 0.3,
}


def unpack(folder: Path) -> Path:
    """Unpack the files of the release into a folder, and return it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@contextmanager
def opened(folder: Path, checkout: Path = ROOT, settings_file: str = SETTINGS) -> Iterator[dict[str, str]]:
    """Start all services of a checkout on the files in a folder, and yield the address of each."""
    settings: Mapping[str, Mapping[str, str]] = json.loads((folder / settings_file).read_text())
    with ExitStack() as stack:
        addresses: dict[str, str] = {}
        for name in ("embedding", "reranking", "retrieval", "orchestrator", "gateway"):
            inner = [f"--{other}={address}" for other, address in addresses.items()]
            environment = {key: value.replace("FOLDER", str(folder)) for key, value in settings[name].items()}
            flags = inner if name in {"orchestrator", "gateway"} else []
            addresses[name] = stack.enter_context(_service(checkout, name, *flags, environment=environment)).address
        yield addresses


@contextmanager
def _service(checkout: Path, name: str, *flags: str, environment: Mapping[str, str]) -> Iterator[ServerProcess]:
    process = start(f"services.{name}", *flags, environment=environment, checkout=checkout)
    try:
        yield process
    finally:
        process.terminate()


def restore(snapshot: Path, data: Path, checkout: Path = ROOT) -> None:
    """Restore a snapshot by the command of a checkout."""
    _run(checkout, "services.retrieval.restore", str(snapshot), "--data", str(data))


def _run(checkout: Path, module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, cwd=checkout, env=environment_of(checkout, {}), check=True, stdout=subprocess.DEVNULL)


def write(checkout: Path, folder: Path) -> None:
    """Write all files of the archive into an empty folder."""
    for name, kind in (("tiny", "BertModel"), ("tiny-sparse", "BertForMaskedLM"), ("tiny-pairs", "Classifier")):
        _export(checkout, folder, name, kind)
    (folder / "pipelines.yaml").write_text(contents.PIPELINES)
    (folder / "tokens.yaml").write_text(contents.TOKENS)
    (folder / SETTINGS).write_text(json.dumps(contents.SETTINGS, indent=1))
    (folder / ONE_MODEL_SETTINGS).write_text(json.dumps(contents.ONE_MODEL_SETTINGS, indent=1))
    _write_collections(checkout, folder)
    _write_indexed(checkout, folder)
    _write_last(checkout, folder)
    _write_answers(checkout, folder)


def _export(checkout: Path, folder: Path, name: str, kind: str) -> None:
    """Export a bundle from a checkpoint of one layer with random weights."""
    with tempfile.TemporaryDirectory(prefix="sluice-checkpoint-") as temporary:
        checkpoint = Path(temporary, name)
        _write_checkpoint(checkpoint, kind)
        flags = {"BertModel": ["--multi-vector", "--query-prompt", "query: "], "BertForMaskedLM": ["--task", "sparse"]}
        out = ("--out", str(folder / "bundles"), "--no-int8")
        _run(checkout, "export", str(checkpoint), *out, *flags.get(kind, []))
    for lock in (folder / "bundles").rglob(".*.lock"):
        lock.unlink()


def _write_checkpoint(folder: Path, kind: str) -> None:
    import torch
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        BertModel,
        BertTokenizerFast,
    )

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:"
    vocabulary = [*specials, *letters, *(f"##{letter}" for letter in letters), *contents.WORDS, "the", "in", "about"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=48).save_pretrained(str(folder))
    torch.manual_seed(7)
    config = BertConfig(vocab_size=len(vocabulary), num_labels=1, **_SIZES)
    model = {"BertModel": BertModel, "BertForMaskedLM": BertForMaskedLM}.get(kind, BertForSequenceClassification)
    model(config).save_pretrained(folder, safe_serialization=True)


def _write_collections(checkout: Path, folder: Path) -> None:
    """Write collections by retrieval's own API, compact one of them, and take a snapshot."""
    flags = (f"--data={folder / 'data'}", f"--snapshots={folder / 'snapshots'}")
    with (
        _service(checkout, "retrieval", *flags, f"--segment-documents={_SEGMENT_DOCUMENTS}", environment={}) as server,
        RetrievalClient(server.address, timeout_s=120) as client,
    ):
        schemas = {"books": contents.schema(), "notes": contents.other_schema(), "dropped": contents.other_schema()}
        for name, schema in schemas.items():
            client.create_collection(name, schema)
            client.upsert(contents.upsert(name, schema, 0, 10))
        client.drop_collection("dropped")
        client.upsert(contents.upsert("books", schemas["books"], 10, 50))
        delete(client, "books", ["d003", "d004"])
        client.optimize_collection("books")
        _alias(client, "live", "notes")
        _alias(client, "live", "books")
        _alias(client, "second", "notes")
        client.create_snapshot(SNAPSHOT)


def delete(client: RetrievalClient, collection: str, ids: list[str]) -> None:
    """Delete documents from a collection."""
    request = pb.DeleteDocumentsRequest(collection=collection, document_ids=ids)
    RetrievalServiceStub(client._channel).DeleteDocuments(request)


def _alias(client: RetrievalClient, alias: str, collection: str) -> None:
    request = pb.SetAliasRequest(alias=pb.Alias(alias=alias, collection=collection))
    RetrievalServiceStub(client._channel).SetAlias(request)


def _write_indexed(checkout: Path, folder: Path) -> None:
    """Index documents through the orchestrator, whole and in chunks."""
    with (
        opened(folder, checkout) as addresses,
        SearchClient(addresses["orchestrator"], token=contents.SECRETS["admin"]) as client,
    ):
        whole = contents.documents(0, 30)
        long = [Document(f"long{number}", " ".join(contents.WORDS[number:] * 3)) for number in range(3)]
        stored = [*client.index("guide", whole, create=True, filterable_fields=contents.FIELDS)]
        stored += client.index("chunks", long, create=True, chunking=Chunking(16, 4))
        assert {one.outcome for one in stored} == {"indexed"}, stored


def _write_last(checkout: Path, folder: Path) -> None:
    """Write to a compacted collection, and kill the server, so that the writes are in the write-ahead log."""
    server = start("services.retrieval", f"--data={folder / 'data'}", checkout=checkout)
    with RetrievalClient(server.address, timeout_s=120) as client:
        assert client.collection("books").statistics.segment_count == 1, server.log
        schema = contents.schema()
        client.upsert(contents.upsert("books", schema, 58, 8, revision=1))
        client.upsert(contents.upsert("books", schema, 1, 1, revision=2))
        delete(client, "books", ["d005", "d061"])
    server.kill()


def _write_answers(checkout: Path, folder: Path) -> None:
    """Ask the release about copies of the files, which stay as they are."""
    with tempfile.TemporaryDirectory(prefix="sluice-copy-") as temporary:
        copy = Path(shutil.copytree(folder, Path(temporary, "copy")))
        with opened(copy, checkout) as addresses:
            record(retrieval_calls(), addresses, folder / "data.jsonl")
            record(system_calls(), addresses, folder / "system.jsonl")
        with opened(copy, checkout, ONE_MODEL_SETTINGS) as addresses:
            record(gateway_calls(), addresses, folder / "one-model.jsonl")
        restored = Path(temporary, "restored")
        restore(folder / "snapshots" / SNAPSHOT, restored, checkout)
        with _service(checkout, "retrieval", f"--data={restored}", environment={}) as server:
            record(retrieval_calls(), {"retrieval": server.address}, folder / "snapshot.jsonl")


def pack(folder: Path, archive: Path) -> None:
    """Write a folder's contents to an archive, without owners and dates."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return None if member.name.endswith("-shm") else member

    with tarfile.open(archive, "w:xz", preset=9, dereference=True) as packed:
        for path in sorted(folder.iterdir()):
            packed.add(path, path.name, filter=plain)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT")
    parser.add_argument("archive", type=Path, metavar="ARCHIVE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-files-") as temporary:
        write(given.checkout.resolve(), Path(temporary))
        pack(Path(temporary), given.archive)
    sys.stdout.write(f"{given.archive}: {given.archive.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
