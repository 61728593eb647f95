"""How near a graph is to its original, whether company changes its answers, and how fast it is.

Facts: dynamic int8 quantises activations over the whole batch, so a text's vector changes with what shares its batch
(cosine 0.964 on MiniLM between alone and batched); cosine to the original alone does not show that.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from export.original import F32, Outputs
from export.run import Feed, Graph
from export.sample import Sample
from services.inference.bundle import Parity, Variant, VariantName

MIN_COSINE: Final = 0.9999
MAX_SCORE_DIFFERENCE: Final = 1e-3
MIN_BATCH_INVARIANCE: Final = 0.9999
MIN_RANK_AGREEMENT: Final = 0.95
_NEAREST: Final = 10
_BATCH: Final = 16
# Logits of 16 x 512 tokens for a vocabulary of 30,000 would be a gigabyte.
_SPARSE_BATCH: Final = 2
# Every sixth sample is longest: 18 neighbours hold three of each length.
_ALONE: Final = 18
_ROUNDS: Final = 5


@dataclass(frozen=True)
class Reference:
    """A sample and what the original framework made of it."""

    sample: Sample
    outputs: Outputs
    relevant_label: int


def measure(graph: Graph, reference: Reference) -> Parity:
    """How near a graph is to the original, and to itself in other company."""
    sample = reference.sample
    batched = graph.run(sample.items, batch_size=_SPARSE_BATCH if "sparse" in graph.outputs else _BATCH)
    some = sample.items[-_ALONE:]
    alone = graph.run(some, batch_size=1)
    together = {name: rows[-_ALONE:] for name, rows in graph.run(some, batch_size=_ALONE).items()}
    agreement = rank_agreement(
        scores(reference.outputs, sample, reference.relevant_label), scores(batched, sample, reference.relevant_label)
    )
    if sample.is_pairs:
        return Parity(
            max_score_difference=max_difference(reference.outputs["logits"], batched["logits"]),
            rank_agreement=agreement,
            batch_invariance=1 - max_difference(alone["logits"], together["logits"]),
        )
    return Parity(
        min_cosine=min_cosine(reference.outputs, batched),
        rank_agreement=agreement,
        batch_invariance=min_cosine(alone, together),
    )


def min_cosine(expected: Outputs, found: Outputs) -> float:
    """Least cosine of two rows at the same place, over all outputs that were found, at most 1.

    Raises ValueError when shapes differ. A row that is not finite gives -1: a broken graph agrees with nothing.
    """
    return min(_min_row_cosine(expected[name], rows) for name, rows in found.items())


def _min_row_cosine(expected: Sequence[F32], found: Sequence[F32]) -> float:
    a, b = (np.concatenate([np.atleast_2d(rows) for rows in part]).astype(np.float64) for part in (expected, found))
    if a.shape != b.shape:
        raise ValueError(f"expected rows of shape {a.shape}, found {b.shape}")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Rows without any term are equal; a row that one of them has and the other has not is as different as can be.
    absent = np.where((a == 0).all(axis=1) & (b == 0).all(axis=1), 1.0, -1.0)
    cosines = np.divide((a * b).sum(axis=1), norms, out=absent, where=norms > 0)
    return float(np.clip(np.nan_to_num(cosines, nan=-1.0), -1, 1).min())


def max_difference(expected: Sequence[F32], found: Sequence[F32]) -> float:
    """Largest absolute difference of two scores at the same place; infinite when one is not a number."""
    difference = float(np.abs(np.stack(expected).astype(np.float64) - np.stack(found)).max())
    return difference if np.isfinite(difference) else float("inf")


def scores(outputs: Outputs, sample: Sample, relevant_label: int) -> F32:
    """Score of each document for each query, float32 [queries, documents]."""
    if sample.is_pairs:
        logits = np.stack(outputs["logits"])[:, relevant_label]
        return logits.reshape(len(sample.queries), len(sample.documents))
    count = len(sample.queries)
    if "dense" in outputs:
        vectors = np.stack(outputs["dense"])
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    elif "sparse" in outputs:
        vectors = np.stack(outputs["sparse"])
    else:
        return _maxsim(outputs["multi_vector"][:count], outputs["multi_vector"][count:])
    result: F32 = vectors[:count] @ vectors[count:].T
    return result


def _maxsim(queries: Sequence[F32], documents: Sequence[F32]) -> F32:
    """Late-interaction score of each document for each query, float32 [queries, documents]."""
    tokens = np.concatenate(documents).T
    starts = np.cumsum([0, *(len(rows) for rows in documents[:-1])])
    return np.stack([np.maximum.reduceat(query @ tokens, starts, axis=1).sum(axis=0) for query in queries])


def rank_agreement(expected: F32, found: F32) -> float:
    """Mean share of the 10 best documents of each query that are among the 10 best in both; [queries, documents]."""
    best, also = (np.argsort(-part, axis=1, kind="stable")[:, :_NEAREST] for part in (expected, found))
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(best.tolist(), also.tolist(), strict=True)]))


def relative_speeds(graphs: Mapping[VariantName, Graph], feeds: Sequence[Feed]) -> dict[VariantName, float]:
    """Throughput of each graph ÷ that of fp32, on the same batches, best of rounds taken in turn."""
    best: dict[VariantName, float] = dict.fromkeys(graphs, float("inf"))
    for _ in range(1 + _ROUNDS):  # the first round warms up; taking the best forgets it
        for name, graph in graphs.items():
            best[name] = min(best[name], _seconds(graph, feeds))
    return {name: best["fp32"] / seconds for name, seconds in best.items()}


def _seconds(graph: Graph, feeds: Sequence[Feed]) -> float:
    start = time.perf_counter()
    for feed in feeds:
        graph.compute(feed)
    return time.perf_counter() - start


def keeps_parity(parity: Parity) -> bool:
    """Whether a graph gives what the original gives, to rounding: the gate of fp32."""
    if parity.min_cosine is not None:
        return parity.min_cosine >= MIN_COSINE
    return parity.max_score_difference is not None and parity.max_score_difference <= MAX_SCORE_DIFFERENCE


def may_be_default(name: VariantName, parity: Parity) -> bool:
    """Whether servers may take a variant unasked: it ranks like the original, and answers do not depend on the batch.

    fp16 is for GPUs, where its speed was not measured: it is taken only when asked for.
    """
    if name == "fp32":
        return True
    is_faithful = parity.rank_agreement >= MIN_RANK_AGREEMENT and parity.batch_invariance >= MIN_BATCH_INVARIANCE
    return name == "int8" and is_faithful


def choose(variants: Mapping[VariantName, Variant]) -> VariantName:
    """The fastest of those that may be the default; fp32 always may."""
    allowed = [name for name, variant in variants.items() if may_be_default(name, variant.parity)]
    return max(allowed, key=lambda name: variants[name].relative_speed)


def tolerance(parity: Parity) -> float:
    """Distance from golden.npz that a server accepts: twice what was measured here, and at least rounding's."""
    if parity.min_cosine is not None:
        return max(1 - MIN_COSINE, 2 * (1 - parity.min_cosine))
    return max(MAX_SCORE_DIFFERENCE, 2 * (parity.max_score_difference or 0))


def report(variants: Mapping[VariantName, Variant]) -> list[str]:
    """Lines of a table: a row a variant."""
    lines = [
        f"{'variant':8} {'drift':>10} {'rank agreement':>15} {'batch invariance':>17} {'speed':>6}  may be default"
    ]
    for name, variant in variants.items():
        parity = variant.parity
        drift = parity.max_score_difference if parity.min_cosine is None else 1 - parity.min_cosine
        lines.append(
            f"{name:8} {drift:10.2e} {parity.rank_agreement:15.3f} {parity.batch_invariance:17.6f} "
            f"{variant.relative_speed:6.2f}  {'yes' if may_be_default(name, parity) else 'no'}"
        )
    return lines
