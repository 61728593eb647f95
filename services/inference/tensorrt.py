"""TensorRT engines next to a bundle: their location, the machines they are for, and their integrity.

    NAME/VERSION/tensorrt/<key>/
        engines.json    the manifest below
        model.onnx      the engine in a wrapper that ONNX Runtime's TensorRT provider loads without building anything

An engine runs only on the GPU architecture, and with the versions, for which it was built.

Rule: only `machine_key` needs a GPU, and it only queries the driver and TensorRT for their versions.
"""

import ctypes
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.inference.bundle import Bundle, BundleError, FileName, check_files
from services.inference.runtime import onnxruntime

FOLDER: Final = "tensorrt"
ENGINES: Final = "engines.json"
GRAPH: Final = "model.onnx"
_COMPUTE_CAPABILITY_MAJOR: Final = 75  # CUdevice_attribute, cuda.h
_COMPUTE_CAPABILITY_MINOR: Final = 76


class Profile(BaseModel):
    """Shapes for which an engine is built: rows and tokens of the smallest, the usual and the largest batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: tuple[int, int] = (1, 1)
    usual: tuple[int, int] = (16, 64)
    most: tuple[int, int]

    def shapes(self, inputs: tuple[str, ...], which: Literal["least", "usual", "most"]) -> str:
        """Return the shapes in the format of the provider's options: `input_ids:1x1,attention_mask:1x1`."""
        rows, tokens = getattr(self, which)
        return ",".join(f"{name}:{rows}x{tokens}" for name in inputs)


class Engines(BaseModel):
    """The manifest of engines, `engines.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: Literal[1] = 1
    """Version of this format."""
    key: str
    """Machine on which the engines were built: `machine_key`."""
    bundle: str
    """SHA-256 of the bundle.json for which the engines were built, in hexadecimal."""
    precision: Literal["fp32", "fp16"]
    """Lowest precision in which TensorRT may compute."""
    profile: Profile
    """Accepted shapes. A batch with another shape would make TensorRT build another engine."""
    tolerance: float = Field(gt=0)
    """Largest distance from golden.npz that a server accepts."""
    files: dict[FileName, str]
    """SHA-256, in hexadecimal, of every other file in the folder."""


def profile_for(max_token_count: int) -> Profile:
    """Return the profile of a model: up to 64 rows of its longest input."""
    return Profile(usual=(16, min(64, max_token_count)), most=(64, max_token_count))


def machine_key() -> str | None:
    """Return the GPU architecture and versions, such as `sm90-tensorrt10.16.1-onnxruntime1.31.1`.

    Return None without a GPU or TensorRT.
    """
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        return None
    try:
        architecture, version = _architecture(), _tensorrt_version()
    except OSError:  # a library is not installed
        return None
    return f"{architecture}-tensorrt{version}-onnxruntime{onnxruntime.__version__}" if architecture else None


def open_engines(bundle: Bundle, key: str) -> tuple[Path, Engines] | None:
    """Return the folder and manifest of the engines for this bundle and machine; None if there are none.

    Raises BundleError if they are damaged or belong to another bundle.
    """
    folder = bundle.folder / FOLDER / key
    path = folder / ENGINES
    if not path.exists():
        return None
    try:
        engines = Engines.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BundleError(folder, f"{ENGINES}: expected a manifest of engines", error) from error
    if (engines.key, engines.bundle) != (key, bundle.digest):
        message = f"{ENGINES}: expected engines for {key} and bundle {bundle.digest}; build them again"
        raise BundleError(folder, message)
    check_files(folder, engines.files)
    return folder, engines


def _architecture() -> str | None:
    """Return the compute capability of the first GPU, such as `sm90`; None without a GPU.

    Raises OSError without a driver.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
    )
    return None if failed else f"sm{major.value}{minor.value}"


def _tensorrt_version() -> str:
    """Return the version of the installed TensorRT 10, such as `10.16.1`. Raises OSError if it is not installed."""
    number = ctypes.CDLL("libnvinfer.so.10").getInferLibVersion()  # 10 * 10,000 + 16 * 100 + 1
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
