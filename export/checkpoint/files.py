"""The files of a checkpoint: download, JSON, and weights, which are listed but not read."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from export.errors import ExportError

LINEAR: Final = "linear.weight"
WEIGHTS: Final = "model.safetensors"
_SAFE_FILES: Final = ["*.json", "*.txt", "*.md", "*.safetensors", "sentencepiece.bpe.model", "spiece.model"]
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def download(source: str, revision: str | None, *, trust_pickle: bool) -> Path:
    """Download a checkpoint from the hub, and return its folder. Raises ExportError."""
    patterns = [*_SAFE_FILES, "*.bin"] if trust_pickle else _SAFE_FILES
    # Other formats of the same weights, kept in folders by convention.
    others = ["onnx/*", "openvino/*", "coreml/*"]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, ignore_patterns=others))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ExportError(
            f"{source}: expected a folder, or the id of a model on a hub that can be reached; found neither: {error}"
        ) from error


def list_weights(folder: Path, *, trust_pickle: bool) -> list[Path]:
    """Return the files of weights. Raises ExportError if there are only pickles that are not trusted, or none."""
    if found := sorted(folder.glob("*.safetensors")):
        return found
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles and trust_pickle:
        return pickles
    if pickles:
        raise ExportError(
            f"{folder}: expected weights as safetensors, found {pickles[0].name}: a pickle can run code when it is "
            "loaded. Convert it with `safetensors`, ask its author to, or name it as trusted with --trust-pickle"
        )
    raise ExportError(f"{folder}: expected weights (*.safetensors), found none")


def weights_in(folder: Path, *, trust_pickle: bool) -> Path:
    """Return the file of weights that sentence-transformers loads for a module. Raises ExportError."""
    found = list_weights(folder, trust_pickle=trust_pickle)
    for name in (WEIGHTS, "pytorch_model.bin"):
        if folder / name in found:
            return folder / name
    raise ExportError(f"{folder}: expected weights named {WEIGHTS}, found {found[0].name}")


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array in a safetensors file. Reads only the file's index. Raises ExportError."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: expected safetensors, found {error}") from error


def hash_of(paths: list[Path]) -> str:
    """Return the SHA-256 of the SHA-256 of each file, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file, empty if there is no file. Raises ExportError."""
    if not path.exists() and not needed:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path}: expected an object, found {type(value).__name__}")
    return value
