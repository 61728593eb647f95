"""Benchmark of late interaction by fixed dimensional encodings (MUVERA) against comparing every token, and PLAID."""

import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import numpy as np
import typer
from sluice.cli.console import err
from sluice.client import float32_tensor
from sluice.common.v1 import tensor_pb2 as tns
from sluice.common.v1.document_pb2 import Document
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from loadtest.bench import setup
from loadtest.bench.retrieval.collection_server import COLLECTION, K, Served, ms, p, recall, served
from loadtest.bench.retrieval.vectors import F32, TokenVectors
from loadtest.bench.setup import Setup

_FIELD: Final = "tokens"
_BATCH: Final = 64
# Times `K` is the number of documents whose tokens are compared.
_OVERSAMPLING: Final = (5, 10, 20, 30, 50, 100)


def late(  # noqa: PLR0913, PLR0917 - the options of a command
    bundle: setup.Bundle,
    data: setup.Data,
    variant: setup.Variant = "fp32",
    documents: Annotated[int, typer.Option(min=100, help="Maximum number of documents.")] = 5000,
    stored: Annotated[str, typer.Option(help="Data type of stored tokens: float16 or int8.")] = "float16",
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure recall@10 against exact MaxSim, documents compared, and the latency of one query."""
    plan = Setup("late", bundle, data, variant, quick, out)
    tokens = TokenVectors.of(plan, documents)
    field = pb.MultiVectorField(
        name=_FIELD,
        dimensions=tokens.documents[0].shape[1],
        stored=tns.DataType.Value(f"DATA_TYPE_{stored.upper()}"),
        encoding=pb.FixedDimensionalEncoding(),
    )
    count = len(tokens.documents)
    measured: dict[str, dict[str, Any]] = {}
    with served(pb.Schema(multi_vector_fields=[field]), "--segment-documents", str(count)) as one:
        written_s = one.upsert(_upserts(tokens))
        built_s = one.settle(count)
        taken, found = one.search(_requests(tokens, exact=True))
        truth = [ranking for (ranking,) in found]
        measured["every token"] = {"compared": count, "recall_at_10": 1.0, "latencies_s": taken}
        for times in _OVERSAMPLING:
            if times * K < count:
                measured[f"encodings, {times} x"] = _by_encodings(one, tokens, truth, times)
    plaid = _plaid(tokens, truth)
    if plaid is not None:
        measured["PLAID (fast-plaid), its defaults"] = plaid
    rows = [
        [name, "", f"{one_['compared'] or 'unknown'}", f"{one_['recall_at_10']:.3f}", ms(p(one_["latencies_s"], 50))]
        for name, one_ in measured.items()
    ]
    counts = [len(document) for document in tokens.documents]
    figures = {"documents": count, "mean_tokens": float(np.mean(counts)), "stored": stored, "written_s": written_s}
    head = ("", "", "documents compared", "recall@10", "p50 ms")
    plan.report(head, rows, {**figures, "built_s": built_s, "measured": measured})


def _by_encodings(one: Served, tokens: TokenVectors, truth: Sequence[set[int]], times: int) -> dict[str, Any]:
    latencies_s, found = one.search(_requests(tokens, exact=False, oversampling=times))
    return {"compared": times * K, "recall_at_10": recall(found, truth), "latencies_s": latencies_s}


def _upserts(tokens: TokenVectors) -> Any:
    for start in range(0, len(tokens.documents), _BATCH):
        part = tokens.documents[start : start + _BATCH]
        joined = np.concatenate(part)
        tensor = tns.Tensor(data_type=tns.DATA_TYPE_FLOAT16, shape=joined.shape, data=joined.tobytes())
        vectors = tns.MultiVectors(tokens=tensor, token_counts=[len(one) for one in part])
        yield pb.UpsertRequest(
            collection=COLLECTION,
            documents=[Document(document_id=str(start + i)) for i in range(len(part))],
            multi_vectors=[pb.MultiVectorColumn(field=_FIELD, vectors=vectors)],
        )


def _requests(tokens: TokenVectors, *, exact: bool, **asked: Any) -> list[pb.RetrieveRequest]:
    queries = [
        pb.FieldQuery(multi_vector=float32_tensor(query, axes=2, field=_FIELD), depth=K, **asked)
        for query in tokens.queries
    ]
    view = pb.DOCUMENT_VIEW_ID
    return [pb.RetrieveRequest(collection=COLLECTION, queries=[query], view=view, exact=exact) for query in queries]


def _plaid(tokens: TokenVectors, truth: Sequence[set[int]]) -> dict[str, Any] | None:
    """Measure the same with fast-plaid if it is installed; None without it. It needs torch, so it is in no extra."""
    try:
        torch: Any = importlib.import_module("torch")
        fast_plaid: Any = importlib.import_module("fast_plaid.search")
    except ImportError as error:
        err.print(f"  skipping PLAID: {error}; pip install fast-plaid", style="dim")
        return None
    with tempfile.TemporaryDirectory(prefix="plaid-") as folder:
        index = fast_plaid.FastPlaid(index=folder, device="cpu")
        given = [torch.from_numpy(document.astype(np.float32)) for document in tokens.documents]
        index.create(documents_embeddings=given)

        def search(query: F32) -> Any:
            return index.search(queries_embeddings=torch.from_numpy(query[None]), top_k=K)[0]

        return _timed(search, tokens, truth)


def _timed(search: Callable[[F32], Any], tokens: TokenVectors, truth: Sequence[set[int]]) -> dict[str, Any]:
    latencies_s, found = [], []
    for query in tokens.queries:
        started = time.perf_counter()
        answer = search(query)
        latencies_s.append(time.perf_counter() - started)
        found.append([{int(document) for document, _ in answer}])
    return {"compared": None, "recall_at_10": recall(found, truth), "latencies_s": latencies_s}
