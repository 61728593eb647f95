"""NVIDIA's client, in a process of its own: its stubs and ours are of one protobuf package.

python -m tests.support.triton ADDRESS embed|rerank MODEL    prints what it saw, as one line of JSON
"""

import json
import queue
import sys
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

TEXTS = ["how do I open a file", "sort", "what is a generator expression good for"]
QUERY = "how do I open a file"


def texts(name: str, values: list[str]) -> InferInput:
    tensor = InferInput(name, [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[value.encode()] for value in values], dtype=np.object_))
    return tensor


def seen_of(result: Any) -> dict[str, Any]:
    """Return the names, types and elements of an answer."""
    outputs = result.get_response().outputs
    return {
        output.name: {"datatype": output.datatype, "values": result.as_numpy(output.name).astype(float).tolist()}
        for output in outputs
    }


def common(client: InferenceServerClient, model: str) -> dict[str, Any]:
    """Return what every server reports about itself and a model."""
    metadata, config = client.get_model_metadata(model), client.get_model_config(model).config
    try:
        client.get_model_metadata("nobody")
        unknown = ""
    except InferenceServerException as error:
        unknown = str(error.status())
    return {
        "live": client.is_server_live(),
        "ready": [client.is_server_ready(), client.is_model_ready(model), client.is_model_ready("nobody")],
        "server": client.get_server_metadata().name,
        "inputs": {one.name: [one.datatype, list(one.shape)] for one in metadata.inputs},
        "outputs": {one.name: [one.datatype, list(one.shape)] for one in metadata.outputs},
        "config": [config.name, config.backend, config.max_batch_size, [one.data_type for one in config.output]],
        "index": [[one.name, one.state] for one in client.get_model_repository_index().models],
        "unknown": unknown,
    }


def streamed(client: InferenceServerClient, model: str, inputs: list[list[InferInput]]) -> list[Any]:
    """Return the answers to a stream, each an error message or its id and tensors."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number, tensors in enumerate(inputs):
        client.async_stream_infer(model, tensors, request_id=str(number), enable_empty_final_response=True)
    client.stop_stream()
    found = [answers.get(timeout=60) for _ in inputs]
    return [str(error) if error else [result.get_response().id, seen_of(result)] for result, error in found]


def embed(client: InferenceServerClient, model: str) -> dict[str, Any]:
    dense = [InferRequestedOutput("dense")]
    ids = np.array([[2, 10, 11, 3, 0], [2, 12, 13, 14, 3]], dtype=np.int64)
    mask = (ids > 0).astype(np.int64)
    tensors = [InferInput(name, [2, 5], "INT64") for name in ("input_ids", "attention_mask")]
    for tensor, values in zip(tensors, (ids, mask), strict=True):
        tensor.set_data_from_numpy(values)
    half = {"embedding_type": "float16", "input_type": "passage"}
    return {
        "text": seen_of(client.infer(model, [texts("text", TEXTS)])),
        "half": seen_of(client.infer(model, [texts("text", TEXTS)], outputs=dense, parameters=half)),
        "bulk": seen_of(client.infer(model, [texts("text", TEXTS)], outputs=dense, priority=2, timeout=30_000_000)),
        "ids": seen_of(client.infer(model, tensors, outputs=dense)),
        "stream": streamed(client, model, [[texts("text", [text])] for text in (TEXTS[0], " ", TEXTS[2])]),
    }


def rerank(client: InferenceServerClient, model: str) -> dict[str, Any]:
    one = [texts("query", [QUERY]), texts("passage", TEXTS)]
    pairs = [texts("query", [QUERY, "sort", QUERY]), texts("passage", TEXTS)]
    return {
        "one": seen_of(client.infer(model, one)),
        "pairs": seen_of(client.infer(model, pairs)),
        "raw": seen_of(client.infer(model, one, parameters={"raw_scores": True})),
    }


def main() -> None:
    address, task, model = sys.argv[1:]
    client = InferenceServerClient(address)
    seen = common(client, model) | (embed if task == "embed" else rerank)(client, model)
    [stats] = client.get_inference_statistics(model).model_stats
    seen["statistics"] = [stats.inference_count, stats.execution_count, stats.inference_stats.success.count]
    seen["failed"] = stats.inference_stats.fail.count
    sys.stdout.write(json.dumps(seen) + "\n")
    client.close()


if __name__ == "__main__":
    main()
