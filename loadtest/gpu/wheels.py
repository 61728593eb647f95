"""Python packages for the GPU machine: downloaded for its platform, unpacked as they lie on PYTHONPATH there."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Final

import fatbin

# What serving needs and the GPU machine may lack or have in other versions. Versions: constraints.txt.
_PACKAGES: Final = (
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "googleapis-common-protos",
    "protobuf",
    "pydantic",
    "pydantic-core",
    "pydantic-settings",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "python-dotenv",
)
_PYTHON: Final = "3.12"
_GLIBC_MINORS: Final = (35, 34, 31, 28, 27, 24, 17)
_PLATFORMS: Final = (
    *(f"manylinux_2_{minor}_x86_64" for minor in _GLIBC_MINORS),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
# Files that Python does not use: the C library, the tools and the notices.
_LEFT_OUT: Final = re.compile(
    r"onnxruntime/capi/libonnxruntime\.so\..*|onnxruntime/tools/.*|onnxruntime/ThirdPartyNotices\.txt"
)


def download_wheels(constraints: Path, folder: Path) -> None:
    """Download the wheels of the packages at the project's versions, unless the folder has them."""
    if list(folder.glob("onnxruntime_gpu-*.whl")):
        return
    folder.mkdir(exist_ok=True)
    lines = re.findall(r"^([\w.-]+)==(\S+)$", constraints.read_text(), re.MULTILINE)
    pinned = {name.lower().replace("_", "-"): version for name, version in lines}
    wanted = [f"onnxruntime-gpu=={pinned['onnxruntime']}"]
    wanted += [f"{name}=={pinned[name]}" if name in pinned else name for name in _PACKAGES]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", _PYTHON, "--implementation", "cp", "--dest", str(folder)]
    command += [flag for platform in _PLATFORMS for flag in ("--platform", platform)]
    subprocess.run([*command, *wanted], check=True)  # noqa: S603 - our own arguments


def unpack_wheels(wheels: Path, folder: Path, architecture: int) -> None:
    """Unpack the wheels, and blank the code of other GPUs in ONNX Runtime's CUDA provider.

    architecture  compute capability to keep, 90 for 9.0; 0 keeps all

    Raises SystemExit when the provider has no code for it.
    """
    cuda = folder / "onnxruntime/capi/libonnxruntime_providers_cuda.so"
    if cuda.exists():
        return
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder, [name for name in file.namelist() if not _LEFT_OUT.fullmatch(name)])
    if architecture and not fatbin.kept_cubins(fatbin.blank(cuda, architecture), architecture):
        cuda.unlink()
        raise SystemExit(f"{cuda} has no code for compute capability {architecture / 10}; try --architecture 0")


def write_own_metadata(pyproject: Path, folder: Path) -> None:
    """Write the metadata of the package `sluice-search`, in which servers look up their version.

    pyproject  of the servers, which have the same version
    """
    version = tomllib.loads(pyproject.read_text())["project"]["version"]
    info = folder / f"sluice_search-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sluice-search\nVersion: {version}\n")
