"""TensorRT engines beside a bundle: where they lie, for which machine they are, and whether they are whole.

    NAME/VERSION/tensorrt/<key>/
        engines.json    the manifest below
        model.onnx      the engine, wrapped as ONNX Runtime's TensorRT provider loads it: nothing is built then

An engine is of use only to a GPU of the architecture, and to the versions, that it was built by.

Rule: nothing here needs a GPU but `machine_key`, and that only asks the driver and TensorRT who they are.
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
    """Shapes an engine is built for: rows and tokens of the smallest, the usual and the largest batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: tuple[int, int] = (1, 1)
    usual: tuple[int, int] = (16, 64)
    most: tuple[int, int]

    def shapes(self, inputs: tuple[str, ...], which: Literal["least", "usual", "most"]) -> str:
        """As the provider's options want it: `input_ids:1x1,attention_mask:1x1`."""
        rows, tokens = getattr(self, which)
        return ",".join(f"{name}:{rows}x{tokens}" for name in inputs)


class Engines(BaseModel):
    """What was built: `engines.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: Literal[1] = 1
    """Version of this layout."""
    key: str
    """The machine it was built on: `machine_key`."""
    bundle: str
    """SHA-256 of the bundle.json it was built for, in hex."""
    precision: Literal["fp32", "fp16"]
    """Least precision TensorRT may compute in."""
    profile: Profile
    """Shapes that it takes; a batch outside of them would build another engine."""
    tolerance: float = Field(gt=0)
    """Largest distance from golden.npz that a server accepts."""
    files: dict[FileName, str]
    """SHA-256 in hex of every other file in the folder."""


def profile_for(max_token_count: int) -> Profile:
    """The profile of a model: up to 64 rows of its longest input."""
    return Profile(usual=(16, min(64, max_token_count)), most=(64, max_token_count))


def machine_key() -> str | None:
    """GPU architecture and versions, e.g. `sm90-tensorrt10.16.1-onnxruntime1.31.1`; None without a GPU or TensorRT."""
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        return None
    try:
        architecture, version = _architecture(), _tensorrt_version()
    except OSError:  # a library is not installed
        return None
    return f"{architecture}-tensorrt{version}-onnxruntime{onnxruntime.__version__}" if architecture else None


def open_engines(bundle: Bundle, key: str) -> tuple[Path, Engines] | None:
    """The folder of the engines that were built for this bundle on such a machine; None when there are none.

    Raises BundleError when they are damaged, or belong to another bundle.
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
    """Compute capability of the first GPU, e.g. `sm90`; None when there is none. Raises OSError without a driver."""
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
    """Version of the installed TensorRT 10, e.g. `10.16.1`. Raises OSError without one."""
    number = ctypes.CDLL("libnvinfer.so.10").getInferLibVersion()  # 10 * 10,000 + 16 * 100 + 1
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
