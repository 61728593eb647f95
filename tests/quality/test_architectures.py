"""Each architecture becomes a bundle that equals the original, or is refused with a sentence that names it."""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from export.checkpoint.chain import PoolingMode
from tests.support.tiny_models import ENCODERS, OTHER_TASKS, OTHERS, Architecture, write_model

_NO_CONFIGURATION: Final = "Optimum has no ONNX configuration for this architecture"
_NO_MASK: Final = "the model does not mask padding"
REFUSED: Final = {
    "longformer": "a graph for texts of one length only",
    "nystromformer": _NO_MASK,
    "convbert": _NO_MASK,
    "mamba": _NO_CONFIGURATION,
    "starcoder2": _NO_CONFIGURATION,
    "ernie_m": _NO_CONFIGURATION,
    "xmod": _NO_CONFIGURATION,
    "canine": _NO_CONFIGURATION,
    "fnet": _NO_CONFIGURATION,
    "gpt_neo": "expected the vectors of the reference model",
    "gptj": "expected the vectors of the reference model",
    "stablelm": "cannot run the exported graph on texts of all lengths",
    "pegasus": "transformers would draw them at random",
    "clip": "only models of texts alone are supported",
    "markuplm": "only models of texts alone are supported",
    "vit": "expected a model of texts, found one that reads pixel_values",
}
# Means of these random models are alike; their last tokens are not.
LAST_TOKEN: Final = {
    "bert",
    "big_bird",
    "distilbert",
    "ernie",
    "flaubert",
    "mobilebert",
    "mpnet",
    "roformer",
    "squeezebert",
    "xlm",
}
# transformers defines functions with torch.jit, which is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
ARCHITECTURES: Final = (*ENCODERS, *OTHERS, *OTHER_TASKS)


def export(architecture: Architecture, folder: Path) -> Any:
    """Write a tiny model and export it; return the bundle."""
    from export.build import export_bundle
    from export.options import Options

    checkpoint = write_model(folder / architecture.model_type, architecture)
    pooling: tuple[PoolingMode, ...] = ("last-token",) if str(architecture) in LAST_TOKEN else ()
    return export_bundle(str(checkpoint), folder / "out", Options(int8=False, pooling=pooling), say=lambda _: None)


@pytest.mark.parametrize("architecture", [one for one in ARCHITECTURES if str(one) not in REFUSED], ids=str)
def test_an_architecture_equals_the_original(architecture: Architecture, tmp_path: Path) -> None:
    """Texts are up to 600 tokens long, so also as long as the model allows, and differ in the model."""
    bundle = export(architecture, tmp_path)
    vectors = np.load(bundle.folder / "golden.npz")["dense"]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    assert np.median(cosines) < 0.9
    parity = bundle.manifest.variants["fp32"].parity
    assert parity.min_cosine >= 0.9999
    assert parity.batch_invariance >= 0.9999


@pytest.mark.parametrize("architecture", [one for one in ARCHITECTURES if str(one) in REFUSED], ids=str)
def test_an_architecture_is_refused_by_name(architecture: Architecture, tmp_path: Path) -> None:
    from export.errors import ExportError

    with pytest.raises(ExportError, match=re.escape(REFUSED[str(architecture)])) as refused:
        export(architecture, tmp_path)
    assert architecture.model_type in str(refused.value)
    assert not re.search(r"Traceback|site-packages|<class|\b\w+(?:Error|Exception)\b", str(refused.value))
    assert not (tmp_path / "out").exists()


def test_positions_of_roberta_start_after_padding() -> None:
    from export.checkpoint.lengths import position_count

    assert position_count({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert position_count({"model_type": "xmod", "max_position_embeddings": 514, "pad_token_id": 0}) == 513
    assert position_count({"model_type": "bert", "max_position_embeddings": 512}) == 512
    assert position_count({"model_type": "gpt2", "n_positions": 1024}) == 1024
    assert position_count({"model_type": "t5", "n_positions": 512}) is None


def test_bigbird_is_limited_to_attention_to_all_tokens() -> None:
    from export.checkpoint.lengths import position_count

    config = {"model_type": "big_bird", "max_position_embeddings": 4096, "block_size": 64, "num_random_blocks": 3}
    assert position_count(config) == 704
    assert position_count({**config, "attention_type": "original_full"}) == 4096


TEXTS: Final = [
    "",
    " ",
    "a",
    "größer ☃ 漢字",
    "two\nlines\ttabs",
    "x</s>y<pad>",
    "é" * 40,
    "\x00\x7f\x80",
    "<extra_id_3> b",
]


def test_the_fast_tokenizer_of_bytes_gives_the_same_ids() -> None:
    from transformers import ByT5Tokenizer

    from export.reference.byte_tokenizer import to_fast

    original = ByT5Tokenizer()
    fast = to_fast(original)
    assert [fast(text).input_ids for text in TEXTS] == [original(text).input_ids for text in TEXTS]
    assert fast("a", "b").input_ids == original("a", "b").input_ids
    assert fast.decode(fast("größer").input_ids, skip_special_tokens=True) == "größer"
