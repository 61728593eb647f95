"""What an installation has: a light base, everything a wheel needs, every version pinned."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BASE = {"grpcio", "googleapis-common-protos", "grpcio-health-checking", "protobuf", "rich", "typer"}
SHIPPED_TYPES = (".py", ".pyi", ".yaml", ".typed", ".html", ".css", ".js", ".svg")
# What the base install does not have (pydantic it has, through typer), and the parts of ours that need it.
HEAVY = "numpy pydantic_settings yaml onnxruntime faiss tokenizers torch prometheus_client services export"
IMPORT_LIGHT = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {HEAVY.split()!r}:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(requirement: str) -> str:
    return normal(re.split(r"[\[<>=!~;\s]", requirement, maxsplit=1)[0])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines)}


def run_light(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where nothing but the base install can be imported."""
    return subprocess.run(
        [sys.executable, "-c", IMPORT_LIGHT + code], check=False, capture_output=True, text=True, timeout=60
    )


def test_base_install_is_what_a_client_needs() -> None:
    assert {name_of(requirement) for requirement in project()["project"]["dependencies"]} == BASE


@pytest.mark.parametrize("module", ["sluice.client", "sluice.errors", "sluice.cli", "sluice.cli.app"])
def test_client_and_command_line_import_with_the_base_install_alone(module: str) -> None:
    ran = run_light(f"import {module}")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["export", "x"], "export"),
        (["up", "--bundle", "x"], "serving,cpu"),
    ],
)
def test_command_that_needs_an_extra_names_it(arguments: list[str], extra: str) -> None:
    ran = run_light(f"import sys; sys.argv = {['sluice', *arguments]!r}\nfrom sluice.cli import main; main()")
    assert ran.returncode == 1
    assert f"pip install 'sluice-search[{extra}]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_every_package_is_pinned_to_one_version() -> None:
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins().values()), "no local versions"


def test_every_package_that_make_setup_asks_for_is_pinned() -> None:
    extras = project()["project"]["optional-dependencies"]
    asked = [extras[extra] for extra in ("serving", "gateway", "cpu", "export", "demo", "loadtest", "dev")]
    names = {name_of(requirement) for requirement in chain(project()["project"]["dependencies"], *asked)}
    assert names - set(pins()) == set()


def test_grpc_packages_are_of_one_version() -> None:
    family = {version for name, version in pins().items() if name.startswith("grpcio")}
    assert len(family) == 1


def test_cpu_and_gpu_stay_alternatives() -> None:
    extras = project()["project"]["optional-dependencies"]
    assert [name_of(requirement) for requirement in extras["cpu"]] == ["onnxruntime"]
    assert [name_of(requirement) for requirement in extras["gpu"]] == ["onnxruntime-gpu"]
    assert "onnxruntime" not in {name_of(requirement) for requirement in extras["serving"]}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from what git knows, and nothing else."""
    tree = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(out), str(tree)], check=True, capture_output=True, text=True)
    [wheel] = out.iterdir()
    return wheel


@pytest.mark.slow
def test_wheel_has_all_that_runs_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    known = [name.removeprefix("protos/python/") for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    shipped = ("sluice/", "services/", "export/", "loadtest/")
    wanted = {name for name in known if name.startswith(shipped) and name.endswith(SHIPPED_TYPES)}
    assert wanted - names == set()
    assert not [name for name in names if name.startswith(("tests/", "k8s/", "protos/"))]


@pytest.mark.slow
def test_wheel_works_without_the_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    where = "import sluice.client, services.retrieval.__main__ as m; print(sluice.client.__file__, m.__file__)"
    for command in (["-c", where], ["-m", "sluice", "--version"], ["-m", "services.orchestrator", "--help"]):
        ran = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert str(ROOT) not in ran.stdout


def test_the_client_lives_beside_tritonclient_in_one_process() -> None:
    """Both have a protobuf package `inference`: the client must not load our stubs of it."""
    code = "import sluice.client, sluice.cli.app, tritonclient.grpc as t; print(t.service_pb2.DESCRIPTOR.package)"
    for order in (code, "import tritonclient.grpc\n" + code):
        ran = subprocess.run([sys.executable, "-c", order], check=False, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == "inference"
