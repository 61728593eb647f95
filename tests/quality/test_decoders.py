"""Bundles of decoders: the vectors equal sentence-transformers', alone and in batches, padded left or right."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.parser
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


@pytest.mark.slow
def test_weights_beyond_one_file_are_in_a_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a protobuf is lowered, because 2 GiB of weights take minutes."""
    from export.build import export_bundle
    from export.graph import files
    from export.options import Options

    checkpoint = write_decoder(tmp_path / "model", "llama")
    whole = export_tiny(checkpoint, tmp_path / "whole")
    monkeypatch.setattr(files, "MOST_WEIGHT_BYTES", 2**16)
    divided = export_bundle(str(checkpoint), tmp_path / "divided", Options(), say=lambda line: None)
    assert {"fp32.onnx.data", "int8.onnx.data"} <= set(divided.manifest.files)
    assert (divided.folder / "fp32.onnx").stat().st_size < (whole / "fp32.onnx").stat().st_size / 2
    vectors = np.stack(served(divided.folder, TEXTS, "dense"))
    np.testing.assert_array_equal(vectors, np.stack(served(whole, TEXTS, "dense")))


# Graphs that the comparison with the reference model must reject.


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint with learned positions and last-token pooling; its bundle is in `out` beside it."""
    folder = tmp_path_factory.mktemp("gpt2")
    checkpoint = write_decoder(folder / "model", "gpt2")
    export_tiny(checkpoint, folder / "out")
    return checkpoint


def without_causal_mask(graph: onnx.GraphProto) -> None:
    """Let each token attend to later ones: compare the positions of keys with a large number."""
    comparison = next(node for node in graph.node if node.op_type == "LessOrEqual")
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(10**6), "beyond"))
    comparison.input[1] = "beyond"


def with_positions_shifted_by_padding(graph: onnx.GraphProto) -> None:
    """Count positions from the end of a row, as if padding were on the left and had positions."""
    added = onnx.parser.parse_graph(
        """shift (int64[B,T] p_indices) => (int64[B,T] shifted) <int64[1] last = {-1}> {
            largest = ReduceMax (p_indices, last)
            all = Equal (attention_mask, attention_mask)
            all_64 = Cast <to = 7> (all)
            count = ReduceSum (all_64, last)
            end = Sub (count, p_one)
            shift = Sub (end, largest)
            shifted = Add (p_indices, shift)
        }"""
    )
    index = next(index for index, node in enumerate(graph.node) if "p_indices" in node.input)
    graph.node[index].input[0] = "shifted"
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes[:index], *added.node, *nodes[index:]])
    graph.initializer.extend(added.initializer)


def with_pooling_off_by_one(graph: onnx.GraphProto) -> None:
    """Take the token before the last one."""
    index, pooling = next((index, node) for index, node in enumerate(graph.node) if node.op_type == "GatherND")
    before = onnx.helper.make_node("Sub", [pooling.input[1], "p_one"], ["before_last"])
    nodes = [*graph.node[:index], before, *graph.node[index:]]
    pooling.input[1] = "before_last"
    nodes[index + 1] = pooling
    del graph.node[:]
    graph.node.extend(nodes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [None, without_causal_mask, with_positions_shifted_by_padding, with_pooling_off_by_one]
)
def test_broken_graph_fails_the_comparison(gpt2: Path, damage: Callable[[onnx.GraphProto], None] | None) -> None:
    from tokenizers import Tokenizer

    from export.calibration_texts import text_sample
    from export.checkpoint.reader import read_checkpoint
    from export.parity import verify
    from export.parity.onnx_runner import Graph
    from export.reference.loader import load_reference

    folder = gpt2.parent / "out" / "model" / "1"
    model = onnx.load(folder / "fp32.onnx")
    if damage:
        damage(model.graph)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKEN_COUNT)
    tokenizer.enable_padding(pad_id=2)
    sample = text_sample()
    original = load_reference(read_checkpoint(str(gpt2)), multi_vector=False)
    reference = verify.Reference(sample, original.run(sample.items), 0)
    assert verify.median_cosine(reference.outputs) < verify.DISTINCT_COSINE
    parity = verify.measure(Graph(model.SerializeToString(), tokenizer), reference)
    assert (verify.deviation(parity) is None) == (damage is None)


@pytest.mark.slow
def test_model_with_equal_vectors_is_rejected(gpt2: Path, tmp_path: Path) -> None:
    """A last norm with zero weights gives all texts its bias."""
    from safetensors.numpy import load_file, save_file

    from export.errors import ExportError

    checkpoint = shutil.copytree(gpt2, tmp_path / "model")
    weights = load_file(checkpoint / "model.safetensors")
    weights["ln_f.weight"], weights["ln_f.bias"] = np.zeros(32, np.float32), np.ones(32, np.float32)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="expected different texts to have different vectors"):
        export_tiny(checkpoint, tmp_path / "out")
