"""Unloading a model frees its memory."""

import json
import shutil
from pathlib import Path

import grpc
import psutil
import pytest
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

from tests.support.processes import running

MIB = 2**20
TEXTS = [f"{'a sentence of some words ' * 5} {number}" for number in range(32)]


@pytest.mark.slow
def test_unloading_models_frees_their_memory(minilm_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(minilm_bundle, tmp_path / "second" / "1"))
    manifest = json.loads((copy / "bundle.json").read_text()) | {"name": "second"}
    (copy / "bundle.json").write_text(json.dumps(manifest))
    arguments = ["--bundles", str(minilm_bundle), "--repository", str(tmp_path), "--cache-entries", "0"]
    with running("services.embedding", *arguments) as server, grpc.insecure_channel(server.address) as channel:
        stub = EmbeddingServiceStub(channel)
        process = psutil.Process(server.pid)
        stub.Embed(pb.EmbedRequest(model="all-MiniLM-L6-v2", texts=TEXTS))
        before = process.memory_info().rss
        for _ in range(4):
            stub.LoadModel(pb.LoadModelRequest(name="second", version="1"))
            stub.Embed(pb.EmbedRequest(model="second", texts=TEXTS))
            loaded = process.memory_info().rss
            stub.UnloadModel(pb.UnloadModelRequest(name="second"))
        after = process.memory_info().rss
    assert loaded > before + 80 * MIB
    assert after < before + 60 * MIB, f"{before / MIB:.0f} MiB before, {after / MIB:.0f} MiB after"
