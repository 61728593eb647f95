"""The files of a checkpoint: download, JSON, and weights, which are listed but not read."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final, TypeVar

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from export.errors import ExportError, cause

T = TypeVar("T", bound=BaseModel)

LINEAR: Final = "linear.weight"
WEIGHTS: Final = "model.safetensors"
_SAFE_FILES: Final = ["*.json", "*.txt", "*.md", "*.safetensors", "sentencepiece.bpe.model", "spiece.model"]
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
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
            f"{source}: expected a folder, or the id of a model on a hub that can be reached; found neither: "
            f"{cause(error)}"
        ) from error


def check_links(folder: Path) -> None:
    """Raise ExportError if a link leads out of the checkpoint, except to the files of the hub's cache."""
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":  # the cache of huggingface_hub links from here
        allowed.append(folder.resolve().parents[1] / "blobs")
    for path in folder.rglob("*"):
        if path.is_symlink() and not any(path.resolve().is_relative_to(parent) for parent in allowed):
            raise ExportError(f"{path}: expected a file in the checkpoint's folder, found a link to another folder")


def check_tokenizer(folder: Path) -> None:
    """Raise ExportError if there is no file of a tokenizer."""
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise ExportError(
            f"{folder}: expected a tokenizer (tokenizer.json), found none. Save the tokenizer that the model was "
            "trained with in this folder"
        )


def list_weights(folder: Path, *, trust_pickle: bool) -> list[Path]:
    """Return the files of weights.

    Raises ExportError if there are only pickles that are not trusted, or none, or if one of several files is missing.
    """
    _check_shards(folder)
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


def _check_shards(folder: Path) -> None:
    """Raise ExportError if the index of weights names a file that is missing or not in the folder."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = sorted(set(map(str, dict(read_json(index).get("weight_map", {})).values())))
        if foreign := [name for name in names if Path(name).name != name]:
            raise ExportError(f"{index}: expected names of files in this folder, found {foreign[0]!r}")
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ExportError(
                f"{folder}: expected {len(names)} files of weights, of which {len(missing)} are missing: "
                f"{', '.join(missing[:3])}. Download the checkpoint again"
            )


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


def read_settings(path: Path, kind: type[T]) -> T:
    """Return the settings in a JSON file. Raises ExportError."""
    try:
        return kind.model_validate(read_json(path, needed=True))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ExportError(f"{path}: {key}: {first['msg']}, found {first['input']!r:.80}") from error


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
