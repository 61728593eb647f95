"""NVIDIA Triton by pytriton, serving a bundle's fp32 graph in ONNX Runtime. Runs in the environment of `triton.py`.

    python triton_served.py BUNDLE THREADS GRPC_PORT HTTP_PORT METRICS_PORT

The model `peer` takes `text` [B, 1] BYTES and gives `dense` [B, D], or takes `query` and `passage` [B, 1] BYTES and
gives `score` [B, 1].
Triton joins requests to batches of up to 64 rows, for which the first waits a millisecond.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is loaded

import numpy as np
import onnxruntime
import tokenizers
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


class Graph:
    """A bundle's graph with its tokenizer."""

    def __init__(self, bundle: Path, threads: int) -> None:
        self.manifest = json.loads((bundle / "bundle.json").read_text())
        self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self._tokenizer.enable_truncation(self.manifest["max_token_count"])
        self._tokenizer.enable_padding(pad_id=self.manifest["pad_token_id"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(bundle / "fp32.onnx"), options)

    def run(self, texts: list[Any], output: str) -> Any:
        """Return an output for texts, or for pairs of texts."""
        encodings = self._tokenizer.encode_batch(texts)
        parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        feeds = {
            name: np.array([getattr(one, part) for one in encodings], dtype=np.int64)
            for name, part in parts.items()
            if name in self.manifest["inputs"]
        }
        return self._session.run([output], feeds)[0]


def decoded(column: Any) -> list[str]:
    """Return the texts of a tensor [B, 1] of bytes."""
    return [value[0].decode() for value in column]


def main() -> None:
    """Serve until SIGTERM."""
    bundle, threads, *ports = sys.argv[1:]
    graph = Graph(Path(bundle), int(threads))

    def embed(text: Any) -> dict[str, Any]:
        return {"dense": graph.run(decoded(text), "dense")}

    def rerank(query: Any, passage: Any) -> dict[str, Any]:
        logits = graph.run(list(zip(decoded(query), decoded(passage), strict=True)), "logits")
        return {"score": (1 / (1 + np.exp(-logits[:, :1]))).astype(np.float32)}

    pairs = graph.manifest["task"] == "cross_encoder"
    names, output = (("query", "passage"), "score") if pairs else (("text",), "dense")
    places = {f"{kind}_port": int(port) for kind, port in zip(("grpc", "http", "metrics"), ports, strict=True)}
    loopback = {"grpc_address": "127.0.0.1", "http_address": "127.0.0.1"}
    with Triton(config=TritonConfig(**places, **loopback)) as triton:
        triton.bind(
            "peer",
            batch(rerank if pairs else embed),
            inputs=[Tensor(name=name, dtype=bytes, shape=(1,)) for name in names],
            outputs=[Tensor(name=output, dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
        )
        triton.serve()


if __name__ == "__main__":
    main()
