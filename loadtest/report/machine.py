"""Description of the machine and versions of a measurement, written into every result."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

_PACKAGES: Final = (
    "sluice-search",
    "grpcio",
    "protobuf",
    "numpy",
    "onnxruntime",
    "tokenizers",
    "faiss-cpu",
    "sentence-transformers",
    "torch",
)


def describe() -> dict[str, Any]:
    """Return machine, versions, commit, time and command, for JSON."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": psutil.virtual_memory().total,
            "system": platform.platform(),
            "load_average_before": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def in_words(described: dict[str, Any]) -> str:
    """Return a one-line description."""
    machine, commit = described["machine"], described["commit"]
    gib = machine["memory_bytes"] / 2**30
    return f"{machine['processor']}, {machine['cores']} cores, {gib:.0f} GiB; commit {commit}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """Return the short commit of this source tree, with `+changes` if modified; `unknown` outside a repository."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own arguments
        ["git", "-C", str(folder), *arguments],  # noqa: S607 - whichever git there is
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
