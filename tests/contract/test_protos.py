"""The protos are well-formed, the generated code is up to date, and v1 stays compatible."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

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


def test_the_baseline_has_every_name(tmp_path: Path) -> None:
    """Otherwise an added name could be removed without a failing test."""
    current = tmp_path / "current.binpb"
    assert buf("build", "--exclude-source-info", "-o", str(current)).returncode == 0
    assert current.read_bytes() == (PROTOS / "baseline.binpb").read_bytes(), "run `make protos`"


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(PROTOS / "generate.py"), "--out", str(tmp_path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    fresh = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    assert fresh
    stale = [str(name) for name, text in fresh.items() if (PROTOS / "python" / name).read_text() != text]
    assert not stale, f"run `make protos`: {stale}"


def test_the_sync_clients_are_generated_from_the_async_ones() -> None:
    environment = os.environ | {"PYTHONPATH": str(PROTOS)}
    script = (
        "import unasync\n"
        "found = unasync.modules()\n"
        "assert len(found) == 5, found\n"
        "print(*(path for path in found if unasync.regenerated(path.read_text()) != path.read_text()))"
    )
    command = [sys.executable, "-c", script]
    stale = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    assert not stale, f"run `make protos`: {stale}"


def test_the_api_reference_is_up_to_date(tmp_path: Path) -> None:
    fresh = tmp_path / "API.md"
    subprocess.run([sys.executable, str(PROTOS / "reference.py"), "--out", str(fresh)], check=True, capture_output=True)
    text = fresh.read_text()
    assert (PROTOS / "API.md").read_text() == text, "run `make protos`"
    links, anchors = set(re.findall(r"\(#(.+?)\)", text)), set(re.findall(r'<a id="(.+?)">', text))
    assert links
    assert links <= anchors, "links that lead nowhere"


DESCRIBE = """
import json

def messages(found, into):
    for one in found:
        into[one.full_name] = {f.name: [f.number, f.type, f.is_repeated] for f in one.fields}
        messages(one.nested_types, into)

def described(*modules):
    names = {}
    for module in modules:
        file = module.DESCRIPTOR
        messages(file.message_types_by_name.values(), names)
        for one in file.enum_types_by_name.values():
            names[one.full_name] = {value.name: value.number for value in one.values}
        for one in file.services_by_name.values():
            names[one.full_name] = {
                m.name: [m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming]
                for m in one.methods
            }
    print(json.dumps(names))
"""
OURS = "from sluice.kserve.v2 import inference_service_pb2 as a, model_config_pb2 as b"
TRITONS = "from tritonclient.grpc import service_pb2 as a, model_config_pb2 as b"


def test_kserve_protos_equal_those_of_tritonclient() -> None:
    """Names, numbers and types are equal. Each runs in its own process, because both use one proto package."""
    ours, theirs = (
        json.loads(subprocess.check_output([sys.executable, "-c", f"{DESCRIBE}\n{imports}\ndescribed(a, b)"]))
        for imports in (OURS, TRITONS)
    )
    other = [
        f"{name}.{field}: {fact}, expected {theirs.get(name, {}).get(field)}"
        for name, fields in ours.items()
        for field, fact in fields.items()
        if theirs.get(name, {}).get(field) != fact
    ]
    assert not other, "\n".join(other)
    assert len(ours) > 40
