"""The system under attack: all five services, with tokens, documents, and health checks on ports of their own."""

import hashlib
import json
import secrets
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from sluice.cli.console import CommandFailed
from sluice.common.v1 import document_pb2
from sluice.search.v1 import search_service_pb2 as pb

from loadtest.attacks.attack import COLLECTION, NUMBER, TAGS, WORD, Target
from loadtest.attacks.probing import CallProbe, HealthProbe, HttpProbe, Probe, ask_patiently, search_body
from loadtest.channels import CHANNEL_OPTIONS
from loadtest.load.targets import Texts
from loadtest.servers import Server, server

SEARCH: Final = "/sluice.search.v1.SearchService/Search"
INDEX: Final = "/sluice.search.v1.SearchService/Index"
SERVICES: Final = ("embedding", "reranking", "retrieval", "orchestrator")
_MAX_HELD_BYTES: Final = 256 * 2**20
_DOCUMENTS: Final = 50
_WARM_UP: Final = 100
_QUOTA: Final = 1000
_TIMEOUT_S: Final = 60.0


@contextmanager
def target_of(bundle: Path, texts: Texts, tree: Path | None = None, *, guarded: bool = False) -> Iterator[Target]:
    """Run a warm system for the block, optionally of another source tree. Raises CommandFailed if it does not start."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-attacks-")))
        token, quota_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        tokens = _write_tokens(folder, token, quota_token)
        health = {name: f"127.0.0.1:{_free_port()}" for name in SERVICES}

        def start(name: str, *arguments: str) -> Server:
            own = ["--health-listen", health[name]] if name in health else []
            return stack.enter_context(server(name, *arguments, *own, tree=tree))

        bundles = ("--bundles", json.dumps([str(bundle.absolute())]))
        servers = {
            "embedding": start("embedding", *bundles),
            "reranking": start("reranking", *bundles),
            "retrieval": start("retrieval", "--data", str(folder / "data")),
        }
        places = [f"--{name}={one.address}" for name, one in servers.items()]
        servers["orchestrator"] = start("orchestrator", *places, "--tokens", str(tokens))
        places.append(f"--orchestrator={servers['orchestrator'].address}")
        held = ("--max-held-bytes", str(_MAX_HELD_BYTES))
        servers["gateway"] = start("gateway", *places, *held, "--tokens", str(tokens))
        own = None
        if guarded:
            own = stack.enter_context(server("embedding", *bundles, "--tokens", str(tokens), tree=tree))
        model = json.loads((bundle / "bundle.json").read_text())["name"]
        target = Target(servers, health, token, model, _MAX_HELD_BYTES, own, quota_token)
        _fill(target, texts)
        _warm(target, texts)
        yield target


def probes_of(target: Target, query: str) -> Sequence[Probe]:
    """Health checks of every server, and searches by a bearer of a token."""
    checks: list[Probe] = [HealthProbe(f"health of {name}", target.address(name)) for name in SERVICES]
    checks += [HealthProbe(f"health port of {name}", address) for name, address in target.health.items()]
    gateway = target.address("gateway")
    checks.append(HttpProbe("health of gateway", gateway, "GET", "/health", is_health=True))
    request = pb.SearchRequest(collection=COLLECTION, query=query, pipeline="fast").SerializeToString()
    return [
        *checks,
        CallProbe("search", target.address("orchestrator"), SEARCH, request, target.authorization),
        HttpProbe("search over HTTP", gateway, "POST", "/search", search_body(COLLECTION, query), target.token),
    ]


def document(number: int, text: str, title: str = "") -> document_pb2.Document:
    """Return a document with metadata for filters."""
    found = document_pb2.Document(document_id=f"d{number}", title=title, text=text)
    found.metadata[NUMBER].number_value = number
    found.metadata[WORD].string_value = f"word{number}"
    found.metadata[TAGS].list_value.values.add().string_value = f"tag{number}"
    return found


def index(target: Target, documents: Sequence[document_pb2.Document]) -> None:
    """Index documents, up to 256 a message. Raises CommandFailed when one is refused."""
    fields = {NUMBER: "number", WORD: "string", TAGS: "list"}
    requests = [pb.IndexRequest(documents=documents[start : start + 256]) for start in range(0, len(documents), 256)]
    requests[0].collection = COLLECTION
    requests[0].create_collection = True
    for name, kind in fields.items():
        requests[0].filterable_fields.add(name=name, type=kind)
    with grpc.insecure_channel(target.address("orchestrator"), options=CHANNEL_OPTIONS) as channel:
        call: Any = channel.stream_stream(
            INDEX, request_serializer=pb.IndexRequest.SerializeToString,
            response_deserializer=pb.IndexResponse.FromString,
        )  # fmt: skip
        answers = list(call(iter(requests), timeout=_TIMEOUT_S, metadata=target.authorization))
    failed = [one for answer in answers for one in answer.acknowledgements if one.outcome == one.OUTCOME_FAILED]
    if failed:
        raise CommandFailed(f"document {failed[0].document_id} was rejected: {failed[0].message}")


def _fill(target: Target, texts: Texts) -> None:
    documents = [document(number, text[:2000]) for number, text in enumerate(texts.passages[:_DOCUMENTS])]
    index(target, documents)


def _warm(target: Target, texts: Texts) -> None:
    """Make the calls that every system gets, so that what grows later grows because of the attack."""
    queries = [texts.queries[number % len(texts.queries)] for number in range(_WARM_UP)]
    probes = [probe for query in queries for probe in probes_of(target, query)[-2:]]
    body = json.dumps({"model": target.model, "input": list(texts.passages[:32])}).encode()
    probes.append(HttpProbe("embed", target.address("gateway"), "POST", "/v1/embeddings", body, target.token))
    for probe in [*probes, *probes_of(target, queries[0])]:
        if error := ask_patiently(probe):
            raise CommandFailed(f"{probe.name} failed before any attack: {error}")


def _write_tokens(folder: Path, token: str, quota_token: str) -> Path:
    entries = [
        {"name": "member", "sha256": _hash(token), "may": ["read", "write"]},
        {"name": "limited", "sha256": _hash(quota_token), "may": ["read"], "texts_per_s": _QUOTA},
    ]
    path = folder / "tokens.yaml"
    path.write_text(json.dumps(entries))  # JSON is YAML
    return path


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
