"""Measures of rankings against judgments, and whether two systems differ. Pure; computed by ir-measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ir_measures
import numpy as np

from loadtest.collection import Qrels

MEASURES: Final = ("nDCG@10", "R@10", "R@50", "RR@10", "AP")
"""As ir-measures names them; RR is MRR and AP is MAP when averaged over queries."""
_SAMPLES: Final = 10_000
_SEED: Final = 1

Rankings = Mapping[str, Sequence[str]]
"""Document ids, best first, by query id."""
PerQuery = dict[str, dict[str, float]]
"""Value of each measure, by measure and query."""


@dataclass(frozen=True)
class Difference:
    """Difference of the means of two systems over the same queries."""

    mean: float
    """First - second."""
    low: float
    high: float
    """Ends of the 95 % interval of the mean, by bootstrap over queries."""
    p_value: float
    """Share of random sign flips that differ as much: two-sided paired randomization test."""


def measure(rankings: Rankings, qrels: Qrels) -> PerQuery:
    """Return the value of each measure for each judged query; a query without results has 0.

    Source: nDCG Jarvelin and Kekalainen 2002, as trec_eval computes it.
    """
    scored = {query: {id_: float(-rank) for rank, id_ in enumerate(ids)} for query, ids in rankings.items()}
    wanted: list[Any] = [ir_measures.parse_measure(name) for name in MEASURES]
    found: PerQuery = {name: dict.fromkeys(qrels, 0.0) for name in MEASURES}
    for value in ir_measures.iter_calc(wanted, qrels, scored):
        found[str(value.measure)][value.query_id] = float(value.value)
    return found


def mean(values: Mapping[str, float], queries: Sequence[str] | None = None) -> float:
    """Return the mean over some queries, or over all."""
    chosen = list(values.values()) if queries is None else [values[query] for query in queries]
    return sum(chosen) / len(chosen) if chosen else 0.0


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> Difference:
    """Compare two systems over the same queries. Source: Smucker, Allan and Carterette, CIKM 2007."""
    deltas = np.array([first[query] - second[query] for query in first])
    chance = np.random.default_rng(_SEED)
    flips = chance.choice((-1.0, 1.0), size=(_SAMPLES, len(deltas)))
    observed = abs(float(deltas.mean()))
    as_large = np.abs((flips * deltas).mean(axis=1)) >= observed - 1e-12
    means = deltas[chance.integers(len(deltas), size=(_SAMPLES, len(deltas)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Difference(float(deltas.mean()), float(low), float(high), float((as_large.sum() + 1) / (_SAMPLES + 1)))
