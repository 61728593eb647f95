"""The graphs of a bundle: one for each variant."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from export.calibration_texts import Item, calibration_items
from export.graph.body import export_body
from export.graph.fp16 import to_float16
from export.graph.fusion import for_cpu, fuse, without_gemm
from export.graph.gating import smooth_gated
from export.graph.head import with_head
from export.graph.int8 import quantized_inputs, to_int8
from export.graph.table import table_graph
from export.options import Options
from export.parity.onnx_runner import Graph
from export.reference.model import ReferenceModel
from services.core.arrays import F32
from services.inference.bundle import VariantName

_CALIBRATION_BATCH: Final = 8


def variants_of(
    original: ReferenceModel, tokenizer: Tokenizer, options: Options, *, is_pairs: bool
) -> dict[VariantName, onnx.ModelProto]:
    """Return the graph of each variant."""
    if isinstance(original.body, np.ndarray):
        bodies = _tables(original.body, options)
    else:
        bodies = _transformers(original.body, original.task, tokenizer, options, is_pairs=is_pairs)
    head = original.head
    return {name: with_head(body, head) for name, body in bodies.items()} if head else bodies


def _tables(table: F32, options: Options) -> dict[VariantName, onnx.ModelProto]:
    """Return the bodies of a static embedding, which has no matrix products to compute in 8 bits."""
    bodies: dict[VariantName, onnx.ModelProto] = {"fp32": table_graph(table)}
    if options.fp16:
        bodies["fp16"] = table_graph(table.astype(np.float16))
    return bodies


def _transformers(
    model: PreTrainedModel, task: str, tokenizer: Tokenizer, options: Options, *, is_pairs: bool
) -> dict[VariantName, onnx.ModelProto]:
    """Return the bodies of a transformer."""
    config = model.config
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body.onnx"
        export_body(model, task, path)
        heads = getattr(config, "num_attention_heads", 0)  # 0: found in the graph
        fused = fuse(path, config.model_type, heads=heads, hidden=config.hidden_size)
    bodies: dict[VariantName, onnx.ModelProto] = {"fp32": for_cpu(fused)}
    if options.int8:
        plain = without_gemm(bodies["fp32"])
        activations = _activations(plain, tokenizer, calibration_items(is_pairs=is_pairs))
        bodies["int8"] = to_int8(*smooth_gated(plain, activations), reduce_range=not has_vnni())
    if options.fp16:
        bodies["fp16"] = to_float16(fused)
    return bodies


def _activations(body: onnx.ModelProto, tokenizer: Tokenizer, items: Sequence[Item]) -> dict[str, F32]:
    """Return the inputs of the graph's matrix products for these items: float32 [tokens, channels] each."""
    model = onnx.ModelProto()
    model.CopyFrom(body)
    del model.graph.output[:]
    names = quantized_inputs(body)
    if not names:
        return {}
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return Graph(model.SerializeToString(), tokenizer).tokens(items, batch_size=_CALIBRATION_BATCH)


def has_vnni() -> bool:
    """Return whether this processor multiplies 8-bit integers without saturating intermediate sums."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "vnni" in flags.read_text(encoding="utf-8")
