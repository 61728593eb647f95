"""What the README says to type works as it is written."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from sluice.client import SearchClient

from services.local.pydocs import corpus
from tests.support.system import System, running_system

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# What takes a hub, or minutes, or is tested elsewhere.
ELSEWHERE = ("make ", "sluice export", "sluice demo", "sluice status", "sluice doctor")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def system(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run a system with a part of the demo's corpus, in the collection of the demo."""
    with running_system(tmp_path_factory.mktemp("readme"), minilm_bundle) as system:
        with SearchClient(system.address) as client:
            fields = {"kind": "string", "module": "string"}
            documents = islice((d for d in corpus() if d.metadata.get("module") in {"csv", "io"}), 60)
            assert all(
                ack.outcome == "indexed"
                for ack in client.index("docs", documents, create=True, filterable_fields=fields)
            )
        yield system


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


def run(arguments: list[str], system: System, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "SLUICE_ADDRESS": system.address, "SLUICE_HOME": str(folder / "home")}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_readme_has_commands_to_test() -> None:
    assert len(commands()) >= 6
    assert len(blocks("python")) == 1


@pytest.mark.slow
def test_the_commands_of_the_readme_work_in_their_order(system: System, folder: Path) -> None:
    for command in commands():
        where = f" --retrieval {system.processes['retrieval'].address}"
        result = run(["bash", "-c", command + where * command.startswith("sluice collections")], system, folder)
        assert result.returncode == 0, command + result.stdout + result.stderr
        if shlex.split(command)[0] == "sluice":
            assert result.stdout.strip(), command


@pytest.mark.slow
def test_the_python_of_the_readme_works(system: System, folder: Path) -> None:
    code = blocks("python")[0].replace("127.0.0.1:50050", system.address)
    result = run([sys.executable, "-c", code], system, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "rerank" in result.stdout
