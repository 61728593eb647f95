"""The graphs of a bundle: one for each variant."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from transformers import PreTrainedModel

from export.calibration_texts import Item, calibration_items
from export.errors import cause
from export.graph.body import export_body
from export.graph.files import save_graph
from export.graph.fp16 import to_float16
from export.graph.fusion import for_cpu, fuse, without_gemm
from export.graph.gating import smooth_gated
from export.graph.int8 import quantized_inputs, to_int8
from export.graph.logit_head import add_head
from export.graph.table import table_graph
from export.options import Options
from export.parity.onnx_runner import Encoder, Graph
from export.reference.model import ReferenceModel
from services.core.arrays import F32
from services.inference.bundle import VariantName

_CALIBRATION_BATCH: Final = 8

Body = Callable[[], onnx.ModelProto]
Say = Callable[[str], None]


def variants_of(
    original: ReferenceModel, encoder: Encoder, options: Options, *, is_pairs: bool, say: Say
) -> dict[VariantName, onnx.ModelProto]:
    """Return the graph of each variant. Skip variants other than fp32 that cannot be made, and report them by `say`."""
    if isinstance(original.body, np.ndarray):
        bodies = _tables(original.body, options)
    else:
        bodies = _transformers(original.body, original.task, encoder, options, is_pairs=is_pairs)
    graphs: dict[VariantName, onnx.ModelProto] = {}
    for name, body in bodies.items():
        try:
            graphs[name] = add_head(body(), original.head)
        except Exception as error:  # conversions fail in many ways on graphs that they were not written for
            if name == "fp32":
                raise
            say(f"skipped {name}: the graph of this architecture cannot be converted to it: {cause(error)}")
    return graphs


def _tables(table: F32, options: Options) -> dict[VariantName, Body]:
    """Return the bodies of a static embedding, which has no matrix products to compute in 8 bits."""
    bodies: dict[VariantName, Body] = {"fp32": lambda: table_graph(table)}
    if options.fp16:
        bodies["fp16"] = lambda: table_graph(table.astype(np.float16))
    return bodies


def _transformers(
    model: PreTrainedModel, task: str, encoder: Encoder, options: Options, *, is_pairs: bool
) -> dict[VariantName, Body]:
    """Return the bodies of a transformer."""
    config = model.config
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body.onnx"
        export_body(model, task, path)
        heads = getattr(config, "num_attention_heads", 0)  # 0: found in the graph
        fused = fuse(path, config.model_type, heads=heads, hidden=config.hidden_size)
    plain = for_cpu(fused)
    bodies: dict[VariantName, Body] = {"fp32": lambda: plain}
    if options.int8:
        bodies["int8"] = lambda: _int8(plain, encoder, is_pairs=is_pairs)
    if options.fp16:
        bodies["fp16"] = lambda: to_float16(fused)
    return bodies


def _int8(body: onnx.ModelProto, encoder: Encoder, *, is_pairs: bool) -> onnx.ModelProto:
    """Return the body in 8 bits, calibrated on real texts."""
    plain = without_gemm(body)
    activations = _activations(plain, encoder, calibration_items(is_pairs=is_pairs))
    return to_int8(*smooth_gated(plain, activations), reduce_range=not has_vnni())


def _activations(body: onnx.ModelProto, encoder: Encoder, items: Sequence[Item]) -> dict[str, F32]:
    """Return the inputs of the graph's matrix products for these items: float32 [tokens, channels] each."""
    model = onnx.ModelProto()
    model.CopyFrom(body)
    del model.graph.output[:]
    names = quantized_inputs(body)
    if not names:
        return {}
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.onnx"
        save_graph(model, path)
        return Graph(path, encoder).tokens(items, batch_size=_CALIBRATION_BATCH)


def has_vnni() -> bool:
    """Return whether this processor multiplies 8-bit integers without saturating intermediate sums."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "vnni" in flags.read_text(encoding="utf-8")
