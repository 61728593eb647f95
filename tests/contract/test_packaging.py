"""Installation: two packages, a light base, everything that a wheel needs, every version pinned."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import sluice
from sluice.cli import entry_points

ROOT = Path(__file__).parents[2]
CLIENT, SERVER = "sluice-search", "sluice-search-server"
PROJECTS = {CLIENT: "protos/python", SERVER: "."}
COMMANDS = {"up", "down", "status", "doctor", "demo", "demo-corpus", "token", "export", "eval", "load"}
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


def project(name: str) -> Any:
    """Return the table `project` of one of the packages."""
    return tomllib.loads((ROOT / PROJECTS[name] / "pyproject.toml").read_text())["project"]


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
    assert {name_of(requirement) for requirement in project(CLIENT)["dependencies"]} == BASE


def test_the_servers_need_the_client_of_their_version() -> None:
    assert project(SERVER)["version"] == sluice.__version__
    assert project(SERVER)["dependencies"] == [f"{CLIENT}=={sluice.__version__}"]


def test_every_extra_can_be_asked_for_by_the_name_of_the_client() -> None:
    """`pip install sluice-search[serving]` installs the servers: such lines are in documents and in messages."""
    extras, servers = project(CLIENT)["optional-dependencies"], project(SERVER)["optional-dependencies"]
    handed_on = {name for name in extras if extras[name] == [f"{SERVER}[{name}]"]}
    assert handed_on == servers.keys() - {"tracing"}
    assert servers["tracing"] == [f"{CLIENT}[tracing]"]
    assert extras.keys() - handed_on == {"langchain", "llama-index", "tracing"}


def test_entry_points_name_the_commands_that_the_client_knows() -> None:
    assert project(SERVER)["entry-points"]["sluice.commands"].keys() == COMMANDS == entry_points.KNOWN.keys()
    assert project(CLIENT)["scripts"] == {"sluice": "sluice.cli:main"}


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
    extras = project(CLIENT)["optional-dependencies"] | project(SERVER)["optional-dependencies"]
    asked = [extras[extra] for extra in ("serving", "gateway", "cpu", "export", "demo", "loadtest", "dev")]
    names = {name_of(requirement) for requirement in chain(project(CLIENT)["dependencies"], *asked)}
    assert names - set(pins()) == set()


def test_grpc_packages_are_of_one_version() -> None:
    family = {version for name, version in pins().items() if name.startswith("grpcio")}
    assert len(family) == 1


def test_cpu_and_gpu_stay_alternatives() -> None:
    extras = project(SERVER)["optional-dependencies"]
    assert [name_of(requirement) for requirement in extras["cpu"]] == ["onnxruntime"]
    assert [name_of(requirement) for requirement in extras["gpu"]] == ["onnxruntime-gpu"]
    assert "onnxruntime" not in {name_of(requirement) for requirement in extras["serving"]}


def known_files() -> list[str]:
    """Return the paths of the files that git knows."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of both packages by name, built from what git knows and nothing else."""
    tree = tmp_path_factory.mktemp("tree")
    for name in known_files():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    for folder in PROJECTS.values():
        subprocess.run([*command, str(out), str(tree / folder)], check=True, capture_output=True, text=True)
    return {normal(path.name.partition("-")[0]): path for path in out.iterdir()}


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by package, each with that package installed and nothing else."""
    folders = {name: tmp_path_factory.mktemp(name) for name in wheels}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    for name, folder in folders.items():
        subprocess.run([*command, str(folder), str(wheels[name])], check=True, capture_output=True, text=True)
    return folders


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of others in this environment, and none of ours."""
    folder = tmp_path_factory.mktemp("others")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("sluice_", "__editable__")):
            (folder / path.name).symlink_to(path)
    return folder


def run_installed(folders: list[Path], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python where only these folders and the standard library can be imported."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "COLUMNS": "120"}
    # -S: no site-packages, in which an editable installation leads to the work tree.
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_each_package_installs_its_own_top_level_packages(installed: dict[str, Path]) -> None:
    found = {
        name: {path.name for path in folder.iterdir() if not path.name.endswith(".dist-info")} - {"bin", "__pycache__"}
        for name, folder in installed.items()
    }
    assert found == {CLIENT: {"sluice"}, SERVER: {"services", "export", "loadtest"}}


@pytest.mark.slow
def test_wheels_have_all_that_runs_and_the_license(wheels: dict[str, Path]) -> None:
    names = {name for wheel in wheels.values() for name in zipfile.ZipFile(wheel).namelist()}
    known = [name.removeprefix("protos/python/") for name in known_files()]
    shipped = ("sluice/", "services/", "export/", "loadtest/")
    assert {name for name in known if name.startswith(shipped) and name.endswith(SHIPPED_TYPES)} - names == set()
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as file:
            (license_,) = (name for name in file.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
            (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
            assert file.read(license_) == (ROOT / "LICENSE").read_bytes()
            assert "# Sluice" in file.read(metadata).decode()


@pytest.mark.slow
def test_client_alone_runs_and_names_the_extra_of_a_missing_command(
    installed: dict[str, Path], others: Path, tmp_path: Path
) -> None:
    alone = [installed[CLIENT], others]
    listed = run_installed(alone, "-m", "sluice", "--help", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    lines = [line.strip("│ ") for line in listed.stdout.splitlines()]
    assert "up           pip install 'sluice-search[serving,cpu]'" in lines
    assert "eval         pip install 'sluice-search[loadtest]'" in lines
    for command, extra in (("up", "serving,cpu"), ("export", "export"), ("load", "loadtest")):
        ran = run_installed(alone, "-m", "sluice", command, "--help", cwd=tmp_path)
        assert ran.returncode == 1
        assert ran.stderr == f"error: `sluice {command}` is not installed: pip install 'sluice-search[{extra}]'\n"


@pytest.mark.slow
def test_both_together_work_without_the_tree(installed: dict[str, Path], others: Path, tmp_path: Path) -> None:
    both = [*installed.values(), others]
    where = "import sluice.client, services.retrieval.__main__ as m; print(sluice.client.__file__, m.__file__)"
    for command in (
        ["-c", where],
        ["-m", "sluice", "--version"],
        ["-m", "services.orchestrator", "--help"],
        *(["-m", "sluice", name, "--help"] for name in COMMANDS),
    ):
        ran = run_installed(both, *command, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert str(ROOT) not in ran.stdout
    assert "Not installed" not in run_installed(both, "-m", "sluice", "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["search", "--help"]], ids=" ".join)
def test_commands_of_the_client_load_no_server(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['sluice', *arguments]!r}\n"
        "from sluice.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"services", "export", "loadtest", "torch", "numpy"} & set(ran.stderr.split())


@pytest.mark.slow
def test_the_client_lives_beside_tritonclient_in_one_process() -> None:
    """Both have a protobuf package `inference`: the client must not load our stubs of it."""
    code = "import sluice.client, sluice.cli.app, tritonclient.grpc as t; print(t.service_pb2.DESCRIPTOR.package)"
    for order in (code, "import tritonclient.grpc\n" + code):
        ran = subprocess.run([sys.executable, "-c", order], check=False, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == "inference"
