"""No component sends telemetry: that of the libraries is turned off before they are loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

from tests.support.processes import ROOT

pytestmark = pytest.mark.slow

# The environment without what would turn telemetry off from outside.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if "TELEMETRY" not in name and name not in {"DO_NOT_TRACK", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"}
}
# Prints what the C library's environment says when a module begins to be imported.
WATCH = """
import ctypes, importlib, sys
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
names = {"onnxruntime": b"ORT_DISABLE_TELEMETRY", "huggingface_hub": b"HF_HUB_DISABLE_TELEMETRY"}
found = {}
def watch(event, arguments):
    if event == "import" and arguments[0] in names:
        found.setdefault(arguments[0], getenv(names[arguments[0]]))
sys.addaudithook(watch)
importlib.import_module(sys.argv[1])
print(*(f"{name}={value}" for name, value in sorted(found.items())))
"""
HUB, RUNTIME = "huggingface_hub=b'1'", "onnxruntime=b'1'"


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("services.embedding.__main__", RUNTIME),
        ("services.reranking.__main__", RUNTIME),
        ("services.inference.tensorrt", RUNTIME),
        ("export.parity.onnx_runner", f"{HUB} {RUNTIME}"),
        ("export.build", f"{HUB} {RUNTIME}"),
        ("export.tensorrt", f"{HUB} {RUNTIME}"),
        ("loadtest.peers.unbatched", HUB),
    ],
)
def test_telemetry_is_off_before_the_library_is_loaded(module: str, expected: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", WATCH, module]
    ran = subprocess.run(command, check=True, env=CLEAN, cwd=ROOT, capture_output=True, text=True)
    assert set(expected.split()) <= set(ran.stdout.split())
    assert "None" not in ran.stdout


def test_a_server_stores_no_telemetry(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    """ONNX Runtime stores its reports in the user's cache before it sends them, so the cache must stay empty."""
    command = [sys.executable, "-m", "services.embedding", "--bundles", str(tiny_bi_encoder), "--listen", "127.0.0.1:0"]
    environment = CLEAN | {"HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            ready = next(line for line in map(json.loads, server.stderr) if line["event"] == "ready")
            with grpc.insecure_channel(ready["address"]) as channel:
                EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(texts=["ore"]))
        finally:
            server.terminate()
        server.stderr.read()
    assert server.returncode == 0
    assert list(tmp_path.rglob("*")) == []
