"""Benchmark of recall and latency of filtered searches."""

from typing import Annotated, Any, Final

import numpy as np
import typer
from sluice.client import where
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from loadtest.bench import setup
from loadtest.bench.retrieval.collection_server import (
    K,
    dense_schema,
    ms,
    p,
    recall,
    retrieve_requests,
    served,
    upserts,
)
from loadtest.bench.retrieval.vectors import Vectors
from loadtest.bench.setup import Setup

_SHARES: Final = (1.0, 0.1, 0.01, 0.001)


def retrieval_filters(
    bundle: setup.Bundle,
    data: setup.Data,
    variant: setup.Variant = "fp32",
    documents: Annotated[int, typer.Option(min=1000, max=5_000_000, help="Number of documents.")] = 100_000,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure recall against exact search, and latency, if 100, 10, 1 and 0.1 % of the documents match."""
    plan = Setup("retrieval-filters", bundle, data, variant, quick, out)
    vectors = Vectors.of(plan, 2000 if quick else documents)
    shares = np.random.default_rng(2).permutation(len(vectors.documents)) / len(vectors.documents)
    schema = dense_schema(vectors.documents.shape[1])
    schema.metadata_fields.add(name="share", type=pb.METADATA_TYPE_NUMBER)
    measured: dict[float, Any] = {}
    with served(schema, "--segment-documents", str(len(shares))) as one:
        one.upsert(upserts(vectors.documents, shares=shares.tolist()))
        one.settle(len(shares))
        for share in _SHARES:
            condition = None if share == 1 else where(f"share < {share}")
            requests = retrieve_requests(vectors.queries, condition=condition)
            one.search(requests)  # warm
            latencies_s, found = one.search(requests)
            truth = vectors.nearest(K, np.flatnonzero(shares < share))
            measured[share] = {"recall_at_10": recall(found, truth), "latencies_s": latencies_s}
    rows = []
    for share, figures in measured.items():
        taken = figures["latencies_s"]
        rows.append([f"{share:.1%}", "", f"{figures['recall_at_10']:.3f}", ms(p(taken, 50)), ms(p(taken, 99))])
    plan.report(("matching", "", "recall@10", "p50 ms", "p99 ms"), rows, {**vectors.record(), "shares": measured})
