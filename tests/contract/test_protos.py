"""The protos are well-formed, the generated code is theirs, and v1 has not changed under its clients."""

import os
import subprocess
import sys
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos"
BIN = Path(sys.executable).parent


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "buf", *arguments], cwd=PROTOS, capture_output=True, text=True, check=False)


def test_the_protos_keep_the_style() -> None:
    result = buf("lint")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_protos_are_formatted() -> None:
    result = buf("format", "--diff", "--exit-code")
    assert result.returncode == 0, result.stdout + result.stderr


def test_v1_grows_and_never_changes() -> None:
    """After a deliberate addition: `make protos` writes the new baseline."""
    result = buf("breaking", "--against", "baseline.binpb")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_generated_code_is_what_the_protos_give(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(PROTOS / "generate.py"), "--out", str(tmp_path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    fresh = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    assert fresh
    stale = [str(name) for name, text in fresh.items() if (PROTOS / "python" / name).read_text() != text]
    assert not stale, f"run `make protos`: {stale}"
