"""The repository's own files: no new folder at the top, and workflows and hooks that call commands of the Makefile."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TOP = {"export", "k8s", "loadtest", "protos", "services", "tests"}
FILES = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]


def strings(tree: Any) -> Iterator[str]:
    """Yield every string of a tree of dictionaries and lists."""
    if isinstance(tree, str):
        yield tree
    for one in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from strings(one)


def test_no_folder_at_the_top_is_new() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.skip("not a git checkout: what belongs to the repository is not known")
    folders = {path.partition("/")[0] for path in listed.split("\0") if "/" in path}
    assert {name for name in folders if not name.startswith(".")} == TOP


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_workflows_and_hooks_call_commands_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    content = yaml.safe_load(path.read_text())
    called = {name for text in strings(content) for name in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)}
    assert called <= targets
    assert called or "workflows" not in path.parts
