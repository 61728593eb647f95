"""The kit for GPU machines, rehearsed on the CPU. It imports and replaces names of Sluice, so a rename can break it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from sluice.embedding.v1.embedding_service_pb2 import EmbedRequest
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

from tests.support.checkpoints import write_bi_encoder
from tests.support.processes import ROOT, running
from tests.support.waiting import until

KIT = ROOT / "loadtest" / "gpu"
OURS = {"services", "export", "sluice", "loadtest", "tests"}
# Steps that a tiny fp32 bundle can rehearse, without servers.
REHEARSED = {"opens", "parity", "natural", "inprocess", "placed", "engines"}


def run_script(name: str, *arguments: str, folder: Path = KIT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / name), *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=240)


def run_code(code: str) -> str:
    """Return what code prints that imports the scripts of the kit."""
    command = [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(KIT)!r})\n{code}"]
    return subprocess.run(command, cwd=KIT, check=True, capture_output=True, text=True, timeout=120).stdout


def imported() -> Iterator[tuple[str, str]]:
    """Yield module and name of every import of ours, wherever it is in the scripts."""
    for path in sorted(KIT.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
                yield from ((node.module, name.name) for name in node.names)


def test_scripts_import_with_numpy_and_the_standard_library_alone() -> None:
    names = [path.stem for path in sorted(KIT.glob("*.py"))]
    code = f"for name in {names}: __import__(name)\nprint(*sys.modules)"
    found = {name.partition(".")[0] for name in run_code(code).split()}
    assert set(names) <= found
    assert found & (OURS | {"grpc", "onnxruntime", "pydantic", "tokenizers", "torch"}) == set()


@pytest.mark.slow  # it imports torch
def test_names_of_ours_that_scripts_import_exist() -> None:
    names = set(imported())
    assert names
    for module, name in names:
        assert not module.startswith(("loadtest", "tests")), f"{module} is not part of what is measured"
        is_submodule = find_spec(f"{module}.{name}") if hasattr(import_module(module), "__path__") else None
        assert is_submodule or hasattr(import_module(module), name), f"{module} has no {name}"


def test_the_page_lists_the_steps_in_their_order() -> None:
    listed = re.findall(r"^\| `(\w+)` \| \d+ \|", (KIT / "README.md").read_text(), re.MULTILINE)
    steps, known = run_code("import check, measure\nprint(*check._STEPS)\nprint(*measure.STEPS)").splitlines()
    assert listed == steps.split()
    assert sorted(listed) == sorted(known.split())


@pytest.fixture(scope="module")
def parts(tiny_bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Parts of a tiny model, without the Python packages: the environment of the tests has them."""
    folder = tmp_path_factory.mktemp("kit")
    checkpoint = write_bi_encoder(folder / "tiny")
    own = ["--bundle", str(tiny_bi_encoder), "--checkpoint", str(checkpoint)]
    ran = run_script("pack.py", "--out", str(folder / "out"), *own, "--no-packages", "--part-mib", "0.1")
    assert ran.returncode == 0, ran.stderr
    recipe = json.loads((folder / "out/stage/bundle/recipes.json").read_text())["fp32.onnx"]
    assert any("names" in piece for piece in recipe["pieces"]), "no weight was taken from the checkpoint"
    return sorted((folder / "out").glob("part-*"))


@pytest.mark.slow
def test_kit_is_packed_taken_and_rehearsed(parts: list[Path], tmp_path: Path) -> None:
    assert len(parts) > 1
    home, out = tmp_path / "home", tmp_path / "out"
    for part in parts[1:]:
        assert run_script("take.py", str(home), folder=part).returncode == 0
    arguments = ["--cpu", "--home", str(home), "--out", str(out), "--only", ",".join(REHEARSED)]
    early = run_script("check.py", *arguments)
    assert early.returncode == 1
    assert "take the other parts first" in early.stderr
    assert run_script("take.py", str(home), folder=parts[0]).returncode == 0
    ran = run_script("check.py", *arguments, folder=home / "kit")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {line["step"] for line in results} == REHEARSED | {"threads"}
    assert [line for line in results if "failed" in line] == []
    assert all(line["worst"] < 1e-4 for line in results if line["step"] == "parity")


@pytest.mark.slow
def test_damaged_part_is_refused(parts: list[Path], tmp_path: Path) -> None:
    part = Path(shutil.copytree(parts[0], tmp_path / "part"))
    [entry, *_] = json.loads((part / "index.json").read_text())["files"]
    content = (part / entry["file"]).read_bytes()
    (part / entry["file"]).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    ran = run_script("take.py", str(tmp_path / "home"), folder=part)
    assert ran.returncode == 1
    assert f"{entry['file']} is damaged" in ran.stderr


@contextmanager
def served(bundle: Path, *arguments: str) -> Iterator[grpc.Channel]:
    """Yield a channel to the kit's embedding server in a process of its own."""
    paths = os.pathsep.join(map(str, (KIT, ROOT, ROOT / "protos" / "python")))
    environment = {"PYTHONPATH": paths, "KIT_ON_CPU": "1"}
    with (
        running("serve", *arguments, "--bundles", str(bundle), environment=environment) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield channel


def embed(channel: grpc.Channel, text: str) -> NDArray[np.float32]:
    response = EmbeddingServiceStub(channel).Embed(EmbedRequest(texts=[text]), timeout=60)
    return np.frombuffer(response.dense.data, dtype="<f4").reshape(response.dense.shape)


@pytest.mark.slow
def test_server_without_a_model_answers_and_is_profiled(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.txt"
    with served(tiny_bi_encoder, "--kit-null", "--kit-profile", str(profile)) as channel:
        assert embed(channel, "ore is washed").tolist() == [[1.0] + [0.0] * 31]
    assert "function calls" in profile.read_text()


@pytest.mark.slow
def test_broken_context_fails_calls_from_then_on(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "fault"
    with served(tiny_bi_encoder, "--kit-fault", str(trigger), "--cache-entries", "0") as channel:
        assert embed(channel, "ore is washed").any()
        trigger.touch()

        def fails() -> bool:
            try:
                embed(channel, "ore is washed")
            except grpc.RpcError as error:
                return bool(error.code() is grpc.StatusCode.INTERNAL)
            return False

        until(fails)
