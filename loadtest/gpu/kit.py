"""The folders of the kit, and the environment of the processes that it starts.

`check.py` sets the `KIT_` variables. The defaults are for a script that is run on its own.
"""

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

KIT: Final = Path(__file__).resolve().parent
"""Folder of these scripts."""

HOME: Final = Path(os.environ.get("KIT_HOME", "/tmp/sluice-gpu"))  # noqa: S108 - the default of `take.py`
"""Folder that the parts were unpacked into."""

PROJECT: Final = Path(os.environ.get("KIT_PROJECT", ".")).resolve()
"""Checkout of Sluice that is measured."""

OUT: Final = Path(os.environ.get("KIT_OUT") or os.environ.get("OUT") or HOME / "out")
"""Folder of results and logs."""

ON_CPU: Final = os.environ.get("KIT_ON_CPU") == "1"
"""Whether this is a rehearsal without a GPU: few small cases, on the CPU provider."""

PROVIDERS: Final = ("CPUExecutionProvider",) if ON_CPU else ("CUDAExecutionProvider", "CPUExecutionProvider")
"""Execution providers to open graphs with, best first."""

CHECKPOINT: Final = HOME / "checkpoint/whole"
"""Checkpoint that the bundle was exported from."""


def bundle_folder(name: str = "plain") -> Path:
    """Return the folder of a bundle: `plain` is the exported one, `packed` the one that removes padding inside."""
    return HOME / "repository" / name / "1"


@cache
def manifest() -> dict[str, Any]:
    """Return the manifest of the exported bundle, as it is in `bundle.json`."""
    result: dict[str, Any] = json.loads((bundle_folder() / "bundle.json").read_text())
    return result


def environment(
    extra: Mapping[str, str] | None = None, *, libraries: bool = True, project: bool = True
) -> dict[str, str]:
    """Return the variables of a child process.

    extra      variables to add
    libraries  put the folders of the CUDA libraries on LD_LIBRARY_PATH
    project    put Sluice and the packages of the kit on PYTHONPATH; without, only the machine's packages are found
    """
    result = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_") and key != "PYTHONPATH"}
    result |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    result |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    if project:
        result["PYTHONPATH"] = os.pathsep.join(map(str, (HOME / "site", PROJECT, PROJECT / "protos/python")))
    original = os.environ.get("KIT_LD", os.environ.get("LD_LIBRARY_PATH", ""))  # before the kit added to it
    found = library_folders() if libraries else []
    result |= {"KIT_LD": original, "LD_LIBRARY_PATH": os.pathsep.join([*found, original]).strip(os.pathsep)}
    return result | dict(extra or {})


def library_folders() -> list[str]:
    """Return the folders of CUDA libraries in this interpreter's packages, and of TensorRT's when the kit has them."""
    folders = [HOME / "tensorrt"] if (HOME / "tensorrt").is_dir() else []
    for base in sys.path:
        folders += sorted(Path(base).glob("nvidia/*/lib")) if base.endswith("-packages") else []
    return [str(folder) for folder in folders]
