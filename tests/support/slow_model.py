"""A model that takes very long for one word: a real graph with a loop."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

# Of the tiny checkpoints' vocabulary, and in none of the golden texts.
SLOW_WORD: Final = "protocol"


def with_slow_word(bundle: Path, folder: Path, *, turns: int) -> Path:
    """Copy a tiny bundle, with a loop of `turns` iterations for each SLOW_WORD in the input."""
    import onnx
    from tokenizers import Tokenizer

    word_id = Tokenizer.from_file(str(bundle / "tokenizer.json")).token_to_id(SLOW_WORD)
    copy = Path(shutil.copytree(bundle, folder / bundle.parent.name / bundle.name))
    path = copy / "fp32.onnx"
    model = onnx.load(path)
    _add_loop(model.graph, word_id, turns)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    manifest: dict[str, Any] = json.loads((copy / "bundle.json").read_text())
    manifest["files"]["fp32.onnx"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / "bundle.json").write_text(json.dumps(manifest))
    return copy


def _add_loop(graph: Any, word_id: int, turns: int) -> None:
    """Append a loop to the output `dense` that adds zero `turns` times."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: Any) -> None:
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))

    constant("slow_word", np.int64(word_id))
    constant("slow_turns", np.int64(turns))
    constant("slow_yes", np.bool_(True))
    constant("slow_zero", np.float32(0))
    for node in graph.node:
        node.output[:] = ["dense_before" if name == "dense" else name for name in node.output]
        node.input[:] = ["dense_before" if name == "dense" else name for name in node.input]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("Add", ["sum_before", "sum_before"], ["sum_after"]),
        ],
        "slow_body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_before", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_after", TensorProto.FLOAT, []),
        ],
    )
    graph.node.extend(
        [
            helper.make_node("Equal", ["input_ids", "slow_word"], ["slow_places"]),
            helper.make_node("Cast", ["slow_places"], ["slow_ones"], to=TensorProto.INT64),
            helper.make_node("ReduceSum", ["slow_ones"], ["slow_count"], keepdims=0),
            helper.make_node("Mul", ["slow_count", "slow_turns"], ["slow_trips"]),
            helper.make_node("Loop", ["slow_trips", "slow_yes", "slow_zero"], ["slow_sum"], body=body),
            helper.make_node("Add", ["dense_before", "slow_sum"], ["dense"]),
        ]
    )
