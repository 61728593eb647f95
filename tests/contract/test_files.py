"""Files written for an earlier release are read: pipelines, tokens and bundles, with every key published then."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from services.inference.bundle import open_bundle
from services.orchestrator.pipelines import loader
from services.orchestrator.pipelines.schema import WeightedSum
from services.rpc.auth import tokens
from tests.contract.published import FILE
from tests.support.upgrade.files import unpack

# Keys that were added after the files were written.
NEWER_PIPELINE_KEYS: Final = {"overlap", "windows"}
NEWER_BUNDLE_KEYS: Final = {"prompt", "head", "document", "tail", "anchor", "identifiers", "before", "after", "text"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the earlier release."""
    return unpack(tmp_path_factory.mktemp("files"))


def keys(tree: Any) -> Iterator[str]:
    """Yield the keys of all dictionaries in a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield key
        yield from keys(value)
    for one in tree if isinstance(tree, list) else ():
        yield from keys(one)


def published(kind: str, thing: str) -> set[str]:
    return set(json.loads(FILE.read_text())[kind][thing])


def test_a_pipelines_file_of_an_earlier_release_is_read(files: Path) -> None:
    path = files / "pipelines.yaml"
    assert published("pipelines", "keys") - NEWER_PIPELINE_KEYS <= set(keys(yaml.safe_load(path.read_text())))
    pipelines = loader.load(path)
    assert sorted(pipelines) == ["cut", "default", "ranks", "unserved", "vectors", "whole"]
    whole = pipelines["whole"]
    assert whole == pipelines["default"]
    assert isinstance(whole.fuse, WeightedSum)
    assert whole.fuse.normalisation == "z_score"
    assert whole.last_stage == "again"


def test_a_tokens_file_of_an_earlier_release_is_read(files: Path) -> None:
    path = files / "tokens.yaml"
    assert published("tokens", "entry") <= set(keys(yaml.safe_load(path.read_text())))
    read = {one.name: one for one in tokens.load(path)}
    assert sorted(read) == ["admin", "reader", "slow", "writer"]
    assert read["reader"].allows("chunks")
    assert not read["reader"].allows("books")
    assert read["writer"].rate("texts") == (1000, 5)
    assert read["admin"].may == {"read", "write", "admin"}


@pytest.mark.parametrize("name", ["tiny", "tiny-sparse", "tiny-pairs"])
def test_a_bundle_of_an_earlier_release_is_opened(files: Path, name: str) -> None:
    folder = files / "bundles" / name / "1"
    written = json.loads((folder / "bundle.json").read_text())
    manifest = open_bundle(folder).manifest
    assert manifest.name == name
    assert json.loads(manifest.model_dump_json(exclude=NEWER_BUNDLE_KEYS)) == written
    assert manifest.prompt is None


def test_a_manifest_of_an_earlier_release_has_every_published_key(files: Path) -> None:
    manifests = [json.loads(path.read_text()) for path in files.glob("bundles/*/*/bundle.json")]
    assert published("bundle", "keys") - NEWER_BUNDLE_KEYS <= {key for manifest in manifests for key in keys(manifest)}
