"""Reading of what a LoRA adapter states about itself, in the folder that PEFT writes.

Facts: the folder has adapter_config.json and adapter_model.safetensors. `rank_pattern` and `alpha_pattern` map regular
expressions, which match a layer's name or the end of it, to values other than `r` and `lora_alpha`. Some ways to
initialize an adapter also change the base model, so the adapter alone is not the whole change.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, Field, ValidationError

from export.checkpoint.files import hash_of, read_json
from export.errors import ExportError

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PICKLE: Final = "adapter_model.bin"
# Settings that make more of an adapter than a sum of low-rank matrices, and the values with which they do not.
_UNSET: Final[tuple[object, ...]] = (None, False, [], {})
_MERGEABLE: Final[dict[str, tuple[object, ...]]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "alora_invocation_tokens": _UNSET,
    "arrow_config": _UNSET,
    "layer_replication": _UNSET,
    "lora_bias": _UNSET,
    "megatron_config": _UNSET,
    "target_parameters": _UNSET,
    "trainable_token_indices": _UNSET,
    "use_qalora": _UNSET,
}

_Rank = Annotated[int, Field(gt=0)]
_Alpha = Annotated[float, Field(allow_inf_nan=False)]
_V = TypeVar("_V", int, float)


class _Config(BaseModel):
    """The settings in adapter_config.json that a merge needs, with PEFT's defaults."""

    base_model_name_or_path: str | None = None
    r: _Rank = 8
    lora_alpha: _Alpha = 8
    rank_pattern: dict[str, _Rank] | None = None
    alpha_pattern: dict[str, _Alpha] | None = None
    use_rslora: bool = False
    use_dora: bool = False


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk, and what it states about itself."""

    folder: Path
    name: str
    weight: float
    """Factor of its change to the model."""
    revision: str
    """`sha256:` and the hash of the configuration and the weights."""
    base_model: str
    """Model that it was trained on; `unknown` if it states none."""
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False
    """Whether the scale is alpha / sqrt(rank) instead of alpha / rank. Source: Kalajdzievski, rsLoRA, 2023."""
    has_magnitudes: bool = False
    """Whether each output channel has a magnitude of its own. Source: Liu et al., DoRA, 2024."""

    @property
    def weights(self) -> Path:
        """The file of weights."""
        return self.folder / WEIGHTS

    def rank_of(self, layer: str) -> int:
        """Return the rank of the layer's matrices."""
        return _value_of(self.rank_pattern, layer, self.rank)

    def scale_of(self, layer: str) -> float:
        """Return the factor of the product of the layer's matrices."""
        rank = self.rank_of(layer)
        return _value_of(self.alpha_pattern, layer, self.alpha) / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def __str__(self) -> str:
        """Return name, weight, hash and base model, as the manifest records them."""
        return f"{self.name}:{self.weight} {self.revision} of {self.base_model}"


def read_adapter(given: str) -> Adapter:
    """Read the adapter named as FOLDER or FOLDER:WEIGHT. Raises ExportError."""
    folder, weight = _parse(given)
    _check_files(folder)
    config = read_json(folder / CONFIG, needed=True)
    _check_mergeable(folder / CONFIG, config)
    stated = _validate(folder / CONFIG, config)
    return Adapter(
        folder=folder,
        name=folder.resolve().name,
        weight=weight,
        revision=f"sha256:{hash_of([folder / CONFIG, folder / WEIGHTS])}",
        base_model=stated.base_model_name_or_path or "unknown",
        rank=stated.r,
        alpha=stated.lora_alpha,
        rank_pattern=stated.rank_pattern or {},
        alpha_pattern=stated.alpha_pattern or {},
        is_rank_stabilized=stated.use_rslora,
        has_magnitudes=stated.use_dora,
    )


def refuse_adapter(folder: Path) -> None:
    """Raise ExportError if a folder that should be a checkpoint is an adapter."""
    if (folder / CONFIG).exists():
        base = read_json(folder / CONFIG).get("base_model_name_or_path") or "its base model"
        raise ExportError(f"{folder}: expected a checkpoint, found an adapter: export {base} with --adapter {folder}")


def _parse(given: str) -> tuple[Path, float]:
    folder, separator, weight = given.rpartition(":")
    if not separator or Path(given).is_dir():
        return Path(given), 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ExportError(f"--adapter: expected FOLDER or FOLDER:WEIGHT with a number as weight, found {given!r}")
    return Path(folder), value


def _check_files(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ExportError(f"{folder}: expected the folder of a LoRA adapter, found no {CONFIG} in it")
    if (folder / WEIGHTS).is_file():
        return
    if (folder / _PICKLE).exists():
        raise ExportError(
            f"{folder}: expected {WEIGHTS}, found {_PICKLE}: a pickle can run code when it is loaded. Load the adapter "
            "with PEFT and save it again"
        )
    raise ExportError(f"{folder}: expected the adapter's weights in {WEIGHTS}, found none")


def _check_mergeable(path: Path, config: Mapping[str, Any]) -> None:
    for key, allowed in _MERGEABLE.items():
        if (value := config.get(key, allowed[0])) not in allowed:
            raise ExportError(
                f"{path}: expected a LoRA adapter with {key} {allowed[0]}, found {value}: `sluice export` cannot merge "
                "it. Merge it with PEFT (merge_and_unload) and export the result"
            )


def _validate(path: Path, config: Mapping[str, Any]) -> _Config:
    try:
        stated = _Config.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ExportError(f"{path}: {key}: {first['msg']}, found {first['input']!r}") from error
    for pattern in (*(stated.rank_pattern or {}), *(stated.alpha_pattern or {})):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ExportError(f"{path}: {pattern!r}: expected a regular expression: {error}") from error
    return stated


def _value_of(patterns: Mapping[str, _V], layer: str, default: _V) -> _V:
    """Return the value of the first pattern that matches the layer's name, or the end of it after a dot."""
    return next((value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", layer)), default)
