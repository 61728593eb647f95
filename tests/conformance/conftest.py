"""Fixtures of each engine: the embedded one, Milvus Lite in this process, and a Milvus server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.engines import ENGINES, Place
from tests.support.milvus import Standalone, lite

EVERY = tuple(ENGINES)
MILVUS = ("milvus-lite", "milvus")


@pytest.fixture(scope="package")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """A Milvus server for all tests of this folder. Idle, it uses a fifth of a core, so it stops after them."""
    server = Standalone(tmp_path_factory.mktemp("milvus"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def lite_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Milvus Lite, one for all tests."""
    with lite(tmp_path_factory.mktemp("lite")) as uri:
        yield uri


@pytest.fixture(params=EVERY)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each engine in turn."""
    return _place(request.param, request, tmp_path)


@pytest.fixture(params=MILVUS)
def milvus_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of Milvus."""
    return _place(request.param, request, tmp_path)


def _place(name: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    settings = {}
    if name == "milvus":
        settings = {"engine": "milvus", "milvus_uri": request.getfixturevalue("standalone").uri}
    if name == "milvus-lite":
        settings = {"engine": "milvus", "milvus_uri": request.getfixturevalue("lite_uri")}
    return Place(name, ENGINES[name], folder, settings)
