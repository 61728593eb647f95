"""The 8-bit graph: answers do not depend on the batch, and rounding is better than to the nearest number."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx.reference import ReferenceEvaluator

from tests.support.checkpoints import write_bi_encoder, write_cross_encoder
from tests.support.tiny_decoders import write_decoder
from tests.support.tiny_models import ENCODERS, write_model


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bi-encoder", "cross-encoder"])
def test_int8_keeps_ranks_and_does_not_depend_on_the_batch(tmp_path: Path, kind: str) -> None:
    from export.build import export_bundle
    from export.options import Options

    write = write_bi_encoder if kind == "bi-encoder" else write_cross_encoder
    checkpoint = write(tmp_path / "model")
    bundle = export_bundle(str(checkpoint), tmp_path / "out", Options(), say=lambda line: None)
    parity = bundle.manifest.variants["int8"].parity
    assert parity.batch_invariance >= 0.9999
    # Two random layers of width 32 are a hard case: no trained redundancy hides an error.
    assert parity.rank_agreement >= 0.85
    model = onnx.load(bundle.folder / "int8.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("MatMulIntegerToFloat") == 2 * 6  # query, key, value, output, and two of the feed-forward


@pytest.mark.slow
@pytest.mark.parametrize(("name", "products"), [("llama", 7), ("gemma3", 7), ("phi3", 4), ("gpt2", 4)])
def test_int8_decoder_keeps_ranks_and_does_not_depend_on_the_batch(tmp_path: Path, name: str, products: int) -> None:
    from export.build import export_bundle
    from export.options import Options

    checkpoint = write_decoder(tmp_path / "model", name)
    bundle = export_bundle(str(checkpoint), tmp_path / "out", Options(), say=lambda line: None)
    parity = bundle.manifest.variants["int8"].parity
    assert parity.batch_invariance >= 0.9999
    assert parity.rank_agreement >= 0.85
    operators = [node.op_type for node in onnx.load(bundle.folder / "int8.onnx").graph.node]
    assert operators.count("MatMulIntegerToFloat") == 2 * products
    # Two inputs of each layer are outputs of norms, whose scales are fixed; the other two have a scale per token.
    assert operators.count("ReduceMax") == 2 * 2


def test_gated_channels_become_alike_and_results_stay() -> None:
    from export.graph.gating import smooth_gated

    graph = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
        gated (float[T,8] x) => (float[T,8] y, float[T,16] product) {
            gate = MatMul (x, w_gate)
            up = MatMul (x, w_up)
            product = Mul (gate, up)
            y = MatMul (product, w_down)
        }""")
    random = np.random.default_rng(3)
    for name, shape in (("w_gate", (8, 16)), ("w_up", (8, 16)), ("w_down", (16, 8))):
        weights = random.normal(size=shape).astype(np.float32)
        if name == "w_up":
            weights[:, 5] *= 300
        graph.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    x = random.normal(size=(40, 8)).astype(np.float32)
    y, product = ReferenceEvaluator(graph).run(None, {"x": x})

    model, activations = smooth_gated(graph, {"product": product})
    same, smooth = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(same, y, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(smooth, activations["product"], rtol=1e-4, atol=1e-4)
    spread, before = (
        np.abs(part).max(axis=0).max() / np.median(np.abs(part).max(axis=0)) for part in (smooth, product)
    )
    assert spread < before / 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # at the import of DeBERTa
def test_graphs_with_branches_and_relative_positions_become_8_bits(tmp_path: Path) -> None:
    """DeBERTa's has constants that only the branches of an If use, and products of relative positions, not tokens."""
    from export.build import export_bundle
    from export.options import Options

    deberta = next(one for one in ENCODERS if str(one) == "deberta")
    checkpoint = write_model(tmp_path / "model", deberta)
    bundle = export_bundle(str(checkpoint), tmp_path / "out", Options(), say=lambda line: None)
    parity = bundle.manifest.variants["int8"].parity
    assert parity.batch_invariance >= 0.9999
    assert parity.rank_agreement >= 0.9


def test_rounding_makes_good_its_own_errors() -> None:
    """On inputs whose channels go together, products change less than with the nearest whole numbers."""
    from export.graph.int8 import rounded

    random = np.random.default_rng(3)
    inputs = (random.normal(size=(500, 8)) @ random.normal(size=(8, 64))).astype(np.float32)
    weights = random.uniform(-20, 20, size=(64, 16)).astype(np.float32)
    chosen, nearest = rounded(weights, inputs, levels=63), np.rint(weights)
    errors = [np.square(inputs @ (part - weights)).mean() for part in (chosen, nearest)]
    assert errors[0] < errors[1] / 2
    assert np.abs(chosen).max() <= 63


def test_rounding_keeps_whole_numbers() -> None:
    from export.graph.int8 import rounded

    random = np.random.default_rng(3)
    weights = random.integers(-127, 128, size=(96, 5)).astype(np.float32)
    inputs = random.normal(size=(200, 96)).astype(np.float32)
    np.testing.assert_array_equal(rounded(weights, inputs, levels=127), weights)
