"""The chain of modules after a model's body: how its token states become the outputs of a bundle.

Facts: sentence-transformers passes token states [B, T, S] and, once they are pooled, one vector for each text [B, D]
from module to module. A Dense works on one of the two.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from export.errors import ExportError

Task = Literal["bi-encoder", "cross-encoder", "sparse", "late-interaction", "yes-no-reranker", "listwise-reranker"]
StaticLayout = Literal["sentence-transformers", "model2vec"]
PoolingMode = Literal["mean", "cls", "last-token", "max", "weighted-mean", "mean-sqrt-len"]
Activation = Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"]


@dataclass(frozen=True)
class Pooling:
    """Token states to one vector: the concatenation of several poolings."""

    modes: tuple[PoolingMode, ...]
    width: int | None = None
    """Length of the token states that it is made for; None if it is not stated."""
    includes_prompt: bool = True
    """Whether the tokens of the prompt count."""


@dataclass(frozen=True)
class Dense:
    """A linear layer, an activation, and perhaps a residual connection."""

    weights: Path
    """File with `linear.weight` [D, S], perhaps `linear.bias` [D] and `residual.weight` [D, S]."""
    of: Literal["tokens", "text"]
    """Whether it maps each token state or the vector of a text."""
    in_features: int
    out_features: int
    has_bias: bool = False
    activation: Activation = "identity"
    has_residual: bool = False
    """Whether the input is added to the output, through a matrix of its own if their lengths differ."""


@dataclass(frozen=True)
class Normalize:
    """Scaling of the vector of a text to unit length."""


@dataclass(frozen=True)
class SpladePooling:
    """Logits [T, V] of a masked language model to term weights [V]. Source: Formal et al., SPLADE v2, 2021."""

    strategy: Literal["max", "sum"] = "max"
    logarithms: Literal[1, 2] = 1
    """Number of times that log(1 + x) is applied after relu."""


Module = Pooling | Dense | Normalize | SpladePooling
Chain = tuple[Module, ...]

# The chains that a graph's head computes: t Dense of tokens, p Pooling, d Dense of texts, n Normalize, s SpladePooling.
_PATTERNS: Final[dict[Task, str]] = {"bi-encoder": "t*p[dn]*", "sparse": "s", "late-interaction": "t+"}
CHAINS: Final = (
    "Transformer, Pooling, and any number of Dense and Normalize; StaticEmbedding, and any number of Dense and "
    "Normalize; Transformer and SpladePooling; Transformer and Dense of token states; Transformer alone; or "
    "Transformer and LogitScore"
)


def task_of(chain: Chain) -> Task | None:
    """Return the task of a model with this chain; None if a graph's head cannot compute it."""
    letters = "".join(map(_letter, chain))
    return next((task for task, pattern in _PATTERNS.items() if re.fullmatch(pattern, letters)), None)


def _letter(module: Module) -> str:
    if isinstance(module, Dense):
        return "t" if module.of == "tokens" else "d"
    return {Pooling: "p", Normalize: "n", SpladePooling: "s"}[type(module)]


def check_widths(chain: Chain, width: int | None) -> None:
    """Raise ExportError if a module does not fit the vectors before it. `width`: of token states, None if unknown."""
    for module in chain:
        if isinstance(module, Pooling):
            _check_width("Pooling", module.width, width)
            width = (module.width or width or 0) * len(module.modes) or None
        elif isinstance(module, Dense):
            _check_width(f"Dense in {module.weights.parent.name}", module.in_features, width)
            width = module.out_features


def _check_width(name: str, expected: int | None, found: int | None) -> None:
    if expected and found and expected != found:
        raise ExportError(f"{name}: expected vectors of {expected} dimensions before it, found {found}")


def is_normalized(chain: Chain) -> bool:
    """Return whether the vectors of texts have unit length."""
    return bool(chain) and isinstance(chain[-1], Normalize)


def with_pooling(chain: Chain, modes: tuple[PoolingMode, ...]) -> Chain:
    """Return the chain with other poolings. Raises ExportError if it has no Pooling."""
    _require_pooling(chain, "--pooling")
    return tuple(replace(module, modes=modes) if isinstance(module, Pooling) else module for module in chain)


def with_normalization(chain: Chain, *, normalize: bool) -> Chain:
    """Return the chain with or without a Normalize at its end. Raises ExportError if it has no Pooling."""
    _require_pooling(chain, "--normalize")
    if normalize == is_normalized(chain):
        return chain
    return (*chain, Normalize()) if normalize else with_normalization(chain[:-1], normalize=False)


def _require_pooling(chain: Chain, flag: str) -> None:
    if not any(isinstance(module, Pooling) for module in chain):
        raise ExportError(f"{flag}: expected a model that gives one vector for each text, found another")
