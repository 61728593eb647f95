"""The Dockerfile: its install lines are run in clean environments, and what they install starts.

No image is built: there is no container engine where the tests run. What `apt-get` and `useradd` do is not tried.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.manifests import K8S
from tests.support.processes import ROOT

DOCKERFILE = K8S / "Dockerfile"
TARGETS = {"serving", "milvus", "serving-gpu", "export", "bundles", "loadtest"}
# Lines of a container's system, not of Python.
SYSTEM = re.compile(r"apt-get|useradd")
# Nothing that would lead to this tree or its environment.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SLUICE_", "VIRTUAL_ENV"))}


@dataclass
class Stage:
    """One stage: the image or stage it starts from, and its instructions in order."""

    source: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, *names: str) -> list[str]:
        return [text for name, text in self.instructions if name in names]


def stages() -> dict[str, Stage]:
    """Return the stages by name."""
    found: dict[str, Stage] = {}
    for line in DOCKERFILE.read_text().replace("\\\n", " ").splitlines():
        name, _, text = line.strip().partition(" ")
        if name == "FROM":
            source, _, stage = text.partition(" AS ")
            found[stage] = Stage(source)
        elif found and name and not name.startswith("#"):
            found[list(found)[-1]].instructions.append((name, text))
    return found


def lineage(name: str) -> Iterator[Stage]:
    """Return a stage after the stages that it starts from."""
    if name in stages():
        yield from lineage(stages()[name].source)
        yield stages()[name]


def build_of(target: str) -> str:
    """Return the stage whose environment a target has."""
    (copied,) = (text for text in stages()[target].of("COPY") if text.startswith("--from="))
    return copied.removeprefix("--from=").split()[0]


def context(folder: Path) -> Path:
    """Copy the tree without what .dockerignore excludes."""
    lines = (K8S / "Dockerfile.dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and any(fnmatch(name, one) or name.startswith(f"{one}/") for one in kept):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_targets_are_those_that_the_head_of_the_file_lists() -> None:
    head = DOCKERFILE.read_text().partition("\nARG")[0]
    listed = re.findall(r"^#   ([a-z-]+)  +\S.*  +(\S+)$", head, re.MULTILINE)
    assert {target for target, _ in listed} == TARGETS
    images = (K8S / "images" / "kustomization.yaml").read_text()
    assert {image for _, image in listed} == set(re.findall(r"\{name: (\S+),", images))


def test_a_final_image_is_not_roots_and_has_no_tools_of_the_build() -> None:
    for target in TARGETS:
        assert [text for stage in lineage(target) for text in stage.of("USER")] == ["10001"], target
        assert not any("COPY . " in f"COPY {text}" for stage in lineage(target) for text in stage.of("COPY")), target


def test_no_image_reports_its_use() -> None:
    for target in TARGETS:
        settings = " ".join(text for stage in lineage(target) for text in stage.of("ENV")).split()
        assert {"ORT_DISABLE_TELEMETRY=1", "HF_HUB_DISABLE_TELEMETRY=1"} <= set(settings), target


def test_no_image_has_pip() -> None:
    removal = "pip uninstall --yes pip"
    for target in TARGETS - {"bundles"}:
        (*_, last) = (text for stage in lineage(build_of(target)) for text in stage.of("RUN"))
        assert last.endswith(f"&& {removal}"), target
    (runs,) = stages()["run"].of("RUN")
    assert runs.endswith(f"&& python3 -m {removal}"), "the base image has one of its own"


def test_base_images_are_named_once_by_tag() -> None:
    outside = {stage.source for stage in stages().values()} - set(stages())
    assert outside == {"${PYTHON}", "${CUDA}"}
    assert "@sha256" not in DOCKERFILE.read_text()


def test_only_the_export_has_torch() -> None:
    for target in TARGETS - {"bundles"}:
        lines = " ".join(text for stage in lineage(build_of(target)) for text in stage.of("RUN"))
        assert ("export" in re.findall(r"/source\[([^\]]+)\]", lines)[0].split(",")) == (target == "export")


def test_every_extra_that_is_installed_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"/source\[([^\]]+)\]", DOCKERFILE.read_text())
    assert {extra for one in asked for extra in one.split(",")} <= set(extras)


def run_lines(stage: str, source: Path, environment: Path) -> None:
    """Run what a build stage runs, with its folders here. Precompiling is left out, which only takes time."""
    here = {"/source": str(source), "/sluice": str(environment)}
    variables = {**os.environ, "PATH": f"{environment}/bin:{os.environ['PATH']}", "PIP_NO_COMPILE": "1"}
    for line in (text for one in lineage(stage) for text in one.of("RUN") if not SYSTEM.search(text)):
        for there, ours in here.items():
            line = re.sub(rf"(?<![\w.]){there}\b", ours, line)  # noqa: PLW2901 - the same line, at home
        line = line.replace("--no-cache-dir ", "").replace("python3 -m venv", f"{sys.executable} -m venv")  # noqa: PLW2901
        ran = subprocess.run(["bash", "-ec", line], check=False, env=variables, capture_output=True, text=True)
        assert ran.returncode == 0, f"{line}\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}"


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Create the environments of the targets that run on any machine, as the Dockerfile does."""
    source = context(tmp_path_factory.mktemp("source"))
    folders = {target: tmp_path_factory.mktemp("images") / "sluice" for target in ("serving", "loadtest")}
    with ThreadPoolExecutor() as pool:
        ends = [pool.submit(run_lines, build_of(target), source, folder) for target, folder in folders.items()]
    for end in ends:
        end.result()
    return folders


def clean(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python of an environment away from the tree."""
    return subprocess.run(
        [str(folder / "bin" / "python"), *arguments],
        check=False,
        cwd=folder,
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_the_servers_run_without_torch(environments: dict[str, Path], tiny_bi_encoder: Path) -> None:
    environment = environments["serving"]
    python, *command = json.loads(stages()["serving"].of("CMD")[0])
    assert python == "python"
    for module in (command[1], "services.reranking", "services.retrieval"):
        assert clean(environment, "-m", module, "--help").returncode == 0, module
    listed = clean(environment, "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))")
    assert not {"torch", "transformers", "optimum", "pip"} & set(listed.stdout.split())
    assert not list(environment.glob("bin/pip*"))
    assert "sluice" in clean(environment, "-m", "sluice", "--version").stdout
    arguments = ["-m", "services.embedding", "--bundles", str(tiny_bi_encoder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [str(environment / "bin" / "python"), *arguments], cwd=environment, env=CLEAN, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        assert any(json.loads(line)["event"] == "ready" for line in server.stderr), "it loads a model and serves"
        server.terminate()
        assert server.stderr.read(), "it says that it drains"
    assert server.returncode == 0


@pytest.mark.slow
def test_the_load_generator_runs(environments: dict[str, Path]) -> None:
    environment = environments["loadtest"]
    (command,) = stages()["loadtest"].of("CMD")
    ran = clean(environment, *json.loads(command)[1:])
    assert ran.returncode == 0, ran.stderr
    ran = clean(environment, "-m", "loadtest", "load", "steady", "--data", "nowhere")
    assert "nowhere" in ran.stderr, "the whole of it was imported, and asks for its data"
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_the_runtime_for_gpus_is_on_the_index() -> None:
    """The rest of that image is as in `serving`, but for TensorRT, from an index of NVIDIA's: that was not tried."""
    (line,) = stages()[build_of("serving-gpu")].of("RUN")
    assert "/source[serving,gpu,tensorrt,tracing]" in line
    (package,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", package]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "Would install onnxruntime-gpu-" in ran.stdout
