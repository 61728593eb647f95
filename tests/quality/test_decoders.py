"""Bundles of decoders: the vectors equal sentence-transformers', alone and in batches, padded left or right."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import pytest

from services.inference.bundle import open_bundle
from tests.support.bundles import cosines, export_tiny, served
from tests.support.tiny_decoders import DECODERS, MAX_TOKEN_COUNT, write_decoder

Side = Literal["left", "right"]

# Lengths from one token to truncated; most are longer than the attention windows.
TEXTS = [
    "x",
    "What does yield do?",
    "größer than ☃",
    "a class is a callable " * 3,
    "import the module before you use its names, or else Python raises an error " * 2,
    "for each item in turn " * 40,
]
POOLINGS = ("lasttoken", "mean")
SIDES: tuple[Side, ...] = ("left", "right")


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_decoder_equals_sentence_transformers(tmp_path: Path, name: str) -> None:
    from sentence_transformers import SentenceTransformer

    number = list(DECODERS).index(name)
    pooling, side = POOLINGS[number % 2], SIDES[number // 2 % 2]
    checkpoint = write_decoder(tmp_path / "model", name, pooling, padding_side=side)
    folder = export_tiny(checkpoint, tmp_path / "out")

    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(TEXTS)
    together = np.stack(served(folder, TEXTS, "dense"))
    alone = np.concatenate([served(folder, [text], "dense") for text in TEXTS])
    assert cosines(together, expected).min() >= 0.9999
    assert cosines(together, alone).min() >= 0.9999
    manifest = open_bundle(folder).manifest
    assert manifest.inputs == ("input_ids", "attention_mask")
    assert manifest.max_token_count == MAX_TOKEN_COUNT
    # Vectors that are all alike would agree with anything.
    assert np.median((expected @ expected.T)[np.triu_indices(len(TEXTS), 1)]) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_side_of_padding_does_not_matter_to_the_graph(tmp_path: Path, name: str) -> None:
    folder = export_tiny(write_decoder(tmp_path / "model", name), tmp_path / "out")
    session = onnxruntime.InferenceSession(folder / "fp32.onnx", providers=["CPUExecutionProvider"])
    ids = np.arange(3, 23, dtype=np.int64)
    vectors = []
    for before, after in ((0, 0), (0, 10), (10, 0)):
        padded = np.pad(ids, (before, after), constant_values=2)[None]
        mask = np.pad(np.ones_like(ids), (before, after))[None]
        vectors.append(session.run(None, {"input_ids": padded, "attention_mask": mask})[0])
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    np.testing.assert_allclose(vectors[2], vectors[0], atol=1e-5)


@pytest.mark.slow
def test_tokenizer_without_padding_uses_another_special_token(tmp_path: Path) -> None:
    checkpoint = write_decoder(
        tmp_path / "model", "gpt2", has_padding=False, prompts={"query": "Instruct: find\nQuery:"}
    )
    manifest = open_bundle(export_tiny(checkpoint, tmp_path / "out")).manifest
    assert manifest.pad_token_id == 1
    assert manifest.query_prompt == "Instruct: find\nQuery:"
