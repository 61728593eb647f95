"""The 8-bit graph: answers do not depend on the batch, and rounding is better than to the nearest number."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.checkpoints import write_bi_encoder, write_cross_encoder


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
