"""The examples of `protos/CLIENTS.md` work as written, with the real libraries, against a running system."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from sluice.client import EmbeddingClient, SearchClient

from services.local.pydocs import corpus
from tests.support.require import require
from tests.support.system import System, running_system

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "protos/CLIENTS.md").read_text()
NODE_MODULES = ROOT / ".venv/node/node_modules"
QUERY = "how do I read a csv file?"

pytestmark = pytest.mark.slow


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def system(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("clients"), minilm_bundle) as system:
        with SearchClient(system.address) as client:
            documents = islice((d for d in corpus() if d.metadata.get("module") in {"csv", "io"}), 40)
            assert all(ack.outcome == "indexed" for ack in client.index("docs", documents, create=True))
        yield system


def pointed_at(system: System, code: str) -> str:
    for name, port in (("orchestrator", 50050), ("embedding", 50051), ("reranking", 50053)):
        code = code.replace(f"127.0.0.1:{port}", system.processes[name].address)
    return code


@pytest.mark.parametrize("position", range(len(blocks("python"))))
def test_the_python_of_the_page_works(position: int, system: System) -> None:
    code = pointed_at(system, blocks("python")[position])
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip()


def test_the_javascript_of_the_page_works(system: System, tmp_path: Path) -> None:
    is_installed = shutil.which("node") is not None and NODE_MODULES.exists()
    require(is_installed, "Node.js with its gRPC packages is not installed: run `make test` where npm is installed")
    program = tmp_path / "client.mjs"
    program.write_text(blocks("js")[0])
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    environment = os.environ | {"SLUICE_ADDRESS": system.address, "PROTOS": str(ROOT / "protos")}
    result = subprocess.run(["node", program], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert "sluice: 'OUTCOME_INDEXED'" in lines[0]
    assert lines[1:] == ["[ 'Sluice' ] false", "true UNKNOWN_COLLECTION"], result.stdout


def test_encode_returns_the_vectors_of_embed(system: System) -> None:
    texts = [f"{QUERY} {number}" for number in range(150)]
    with EmbeddingClient(system.processes["embedding"].address) as client:
        vectors = client.encode(texts)
        assert vectors.shape == (150, 384)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors[149], client.encode(texts[149]), atol=1e-5)
        np.testing.assert_allclose(client.encode_query([QUERY])[0], client.encode_query(QUERY), atol=1e-5)
        assert client.encode([]).size == 0


def test_langchain_searches_from_asyncio_too(system: System) -> None:
    code = f"""
import asyncio
from sluice.client import AsyncSearchClient, SearchClient
from sluice.integrations.langchain import SluiceRetriever

async def main():
    async with AsyncSearchClient("{system.address}") as asynchronous:
        with SearchClient("{system.address}") as client:
            how = dict(client=client, collection="docs", top_k=3)
            inside = SluiceRetriever(async_client=asynchronous, **how)
            found = await inside.ainvoke("{QUERY}")
            assert [one.id for one in found] == [one.id for one in SluiceRetriever(**how).invoke("{QUERY}")]
            assert all(one.metadata["degraded"] is False and one.metadata["title"] for one in found)
            print(len(found))

asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "3", result.stderr
