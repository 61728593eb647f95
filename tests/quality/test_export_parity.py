"""A bundle gives what the original framework gives; what cannot be proved to is refused, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from services.inference.bundle import BundleError, open_bundle
from services.inference.session import Session
from services.inference.tokenizer import Tokenizer
from tests.support.bundles import cosines, served
from tests.support.checkpoints import MAX_TOKEN_COUNT, write_bi_encoder, write_cross_encoder
from tests.support.processes import IGNORING_SIGINT, command_running

# Lengths from empty to truncated, and characters that the vocabulary does not have.
TEXTS = ["", "x", "What does yield do?", "größer than ☃", "a class is a callable " * 3, "for each item in turn " * 40]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "normalize", "multi_vector"),
    [
        ("mean", True, True),
        ("mean", False, False),
        ("cls", True, False),
        ("lasttoken", True, False),
        ("max", False, True),
    ],
)
def test_bi_encoder_equals_sentence_transformers(
    tmp_path: Path, pooling: str, normalize: bool, multi_vector: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    from export.build import export_bundle
    from export.options import Options

    checkpoint = write_bi_encoder(tmp_path / "model", pooling, normalize=normalize)
    bundle = export_bundle(str(checkpoint), tmp_path / "out", Options(int8=False, multi_vector=multi_vector))

    original = SentenceTransformer(str(checkpoint), device="cpu")
    vectors = np.stack(served(bundle.folder, TEXTS, "dense"))
    expected = original.encode(TEXTS)
    assert cosines(vectors, expected).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-4)
    assert bundle.manifest.max_token_count == MAX_TOKEN_COUNT
    assert bundle.manifest.representations == (("dense", "multi_vector") if multi_vector else ("dense",))
    if multi_vector:
        states = original.encode(TEXTS, output_value="token_embeddings", convert_to_numpy=False)
        for given, rows in zip(served(bundle.folder, TEXTS, "multi_vector"), states, strict=True):
            assert cosines(given, rows.numpy()).min() >= 0.9999
            np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("fixture", ["tiny_cross_encoder", "tiny_cross_encoder_3_labels"])
def test_cross_encoder_equals_transformers(fixture: str, request: pytest.FixtureRequest) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder: Path = request.getfixturevalue(fixture)
    bundle = open_bundle(folder)
    checkpoint = folder.parents[2] / bundle.manifest.name
    pairs = [(query, document) for query in TEXTS[1:4] for document in TEXTS]
    tokenizer = Tokenizer(folder / "tokenizer.json", max_token_count=bundle.manifest.max_token_count)
    queries, documents = (tokenizer.tokenize([pair[side] for pair in pairs]) for side in (0, 1))
    rows = [tokenizer.pair(q, d, "end") for q, d in zip(queries, documents, strict=True)]
    logits = Session(bundle, "fp32").run(rows, ["logits"])["logits"]

    inputs = AutoTokenizer.from_pretrained(checkpoint)(
        pairs, padding=True, truncation="only_second", max_length=bundle.manifest.max_token_count, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = AutoModelForSequenceClassification.from_pretrained(checkpoint)(**inputs).logits.numpy()
    assert logits.shape == (len(pairs), len(bundle.manifest.labels))
    assert np.abs(logits - expected).max() <= 1e-3


def test_labels_and_the_relevant_one_are_recorded(tiny_cross_encoder_3_labels: Path) -> None:
    manifest = open_bundle(tiny_cross_encoder_3_labels).manifest
    assert manifest.labels == ("contradiction", "neutral", "entailment")
    assert manifest.relevant_label == 2


@pytest.mark.slow
def test_prompts_and_flags_reach_the_manifest(tmp_path: Path) -> None:
    from export.build import export_bundle
    from export.options import Options

    checkpoint = write_bi_encoder(tmp_path / "model", prompts={"query": "query: ", "document": "passage: "})
    options = Options(name="renamed", version="2", int8=False, pooling=("cls",), normalize=False, document_prompt="")
    bundle = export_bundle(str(checkpoint), tmp_path / "out", replace(options, max_token_count=32))
    manifest = bundle.manifest
    assert bundle.folder == tmp_path / "out" / "renamed" / "2"
    assert (manifest.query_prompt, manifest.document_prompt, manifest.max_token_count) == ("query: ", "", 32)
    assert np.linalg.norm(np.stack(served(bundle.folder, TEXTS, "dense")), axis=1).max() > 1.1


@pytest.mark.slow
def test_variants_are_measured_and_only_a_servable_one_is_the_default(tmp_path: Path) -> None:
    from export.build import export_bundle
    from export.options import Options
    from export.parity import verify

    said: list[str] = []
    checkpoint = write_bi_encoder(tmp_path / "model")
    bundle = export_bundle(str(checkpoint), tmp_path / "out", Options(fp16=True), say=said.append)
    manifest = bundle.manifest
    assert set(manifest.variants) == {"fp32", "int8", "fp16"}
    assert manifest.variants["fp32"].parity.batch_invariance >= 0.9999
    assert manifest.variants["fp16"].parity.rank_agreement >= 0.95
    assert manifest.default_variant == verify.choose(manifest.variants)
    assert sum(line.startswith(("fp32 ", "int8 ", "fp16 ")) for line in said) == 3
    for name in manifest.variants:
        assert Session(bundle, name).outputs == ("dense",)


def test_the_same_export_again_is_recognized_and_others_are_not(tiny_cross_encoder: Path) -> None:
    from export.build import export_bundle
    from export.options import Options

    said: list[str] = []
    checkpoint, out = tiny_cross_encoder.parents[2] / "tiny-pairs", tiny_cross_encoder.parents[1]
    before = open_bundle(tiny_cross_encoder).digest
    again = export_bundle(str(checkpoint), out, Options(int8=False), say=said.append)
    assert again.digest == before
    assert len(said) == 1
    assert "already" in said[0]


def test_tokenizer_neither_cuts_nor_pads(tiny_bi_encoder: Path) -> None:
    stated = json.loads((tiny_bi_encoder / "tokenizer.json").read_text())
    assert stated["truncation"] is None
    assert stated["padding"] is None


# What is refused.


def test_a_graph_that_differs_is_refused(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    """One weight matrix scaled by 1.1, as a wrong fusion might."""
    from tokenizers import Tokenizer as Tokens

    from export.calibration_texts import Sample
    from export.checkpoint.reader import read_checkpoint
    from export.parity import verify
    from export.parity.onnx_runner import Graph
    from export.reference.loader import load_reference

    original = load_reference(read_checkpoint(str(tiny_bi_encoder.parents[2] / "tiny")), multi_vector=True)
    sample = Sample(("assert", "yield"), tuple(f"{text} {text}" for text in TEXTS[1:]) * 4, is_pairs=False)
    reference = verify.Reference(sample, original.run(sample.items), 0)
    tokenizer = Tokens.from_file(str(tiny_bi_encoder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKEN_COUNT)
    tokenizer.enable_padding()
    model = onnx.load(tiny_bi_encoder / "fp32.onnx")
    weights = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [32, 64])
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1.1, weights.name))
    onnx.save(model, tmp_path / "broken.onnx")

    whole, broken = (Graph(path, tokenizer) for path in (tiny_bi_encoder / "fp32.onnx", tmp_path / "broken.onnx"))
    assert verify.deviation(verify.measure(whole, reference)) is None
    assert verify.deviation(verify.measure(broken, reference))


@pytest.mark.slow
def test_nothing_is_written_without_parity(tmp_path: Path) -> None:
    """Logits beyond the largest float32 have no parity with anything."""
    from safetensors.numpy import load_file, save_file

    from export.build import export_bundle
    from export.errors import ExportError
    from export.options import Options

    checkpoint = write_cross_encoder(tmp_path / "model")
    weights = load_file(checkpoint / "model.safetensors")
    weights["classifier.weight"] = np.full_like(weights["classifier.weight"], 3e38)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="no bundle was written"):
        export_bundle(str(checkpoint), tmp_path / "out", Options(int8=False), say=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_pickles_are_refused_unless_trusted(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from export.checkpoint.reader import read_checkpoint
    from export.errors import ExportError

    checkpoint = write_cross_encoder(tmp_path / "model")
    weights = checkpoint / "model.safetensors"
    torch.save(load_file(weights), checkpoint / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ExportError, match=r"pytorch_model\.bin.*--trust-pickle"):
        read_checkpoint(str(checkpoint))
    assert read_checkpoint(str(checkpoint), trust_pickle=True).trust_pickle


class Exploit:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_trusted_pickle_still_runs_no_code(tmp_path: Path) -> None:
    import torch

    from export.checkpoint.reader import read_checkpoint
    from export.errors import ExportError
    from export.reference.loader import load_reference

    checkpoint = write_cross_encoder(tmp_path / "model")
    (checkpoint / "model.safetensors").unlink()
    torch.save({"classifier.bias": Exploit(tmp_path / "ran")}, checkpoint / "pytorch_model.bin")
    with pytest.raises(ExportError):
        load_reference(read_checkpoint(str(checkpoint), trust_pickle=True), multi_vector=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", [{"type": "os.system", "path": ""}, {"type": "x.Pooling", "path": "p"}], "os.system"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "found median"),
        ("config.json", [], "expected an object"),
    ],
)
def test_what_a_checkpoint_says_is_checked(tmp_path: Path, file: str, content: object, message: str) -> None:
    from export.checkpoint.reader import read_checkpoint
    from export.errors import ExportError

    checkpoint = write_bi_encoder(tmp_path / "model")
    (checkpoint / file).write_text(json.dumps(content))
    with pytest.raises(ExportError, match=message):
        read_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../elsewhere"}, "--name"),
        ({"version": ".hidden"}, "--version"),
        ({"max_token_count": 4096}, "expected at most 128 positions, found 4096"),
    ],
)
def test_what_an_export_is_asked_for_is_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    from export.build import export_bundle
    from export.errors import ExportError
    from export.options import Options

    with pytest.raises(ExportError, match=message):
        export_bundle(str(write_cross_encoder(tmp_path / "model")), tmp_path / "out", Options(**changes))
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_neither_folder_nor_model_is_refused() -> None:
    command = [sys.executable, "-m", "export", "no/such-model"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=offline)
    assert result.returncode == 1
    assert "expected a folder" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_leaves_nothing_that_looks_like_a_bundle(tmp_path: Path, number: signal.Signals) -> None:
    from export.build import export_bundle
    from export.options import Options

    checkpoint, out = write_cross_encoder(tmp_path / "model"), tmp_path / "out"
    command = [sys.executable, "-m", "export", str(checkpoint), "--out", str(out), "--no-int8"]
    with command_running([*IGNORING_SIGINT, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        for line in process.stdout:
            if "comparing the graphs" in line:  # graphs and tokenizer are written
                process.send_signal(number)
    assert process.returncode != 0
    assert not (out / "model" / "1").exists()
    bundle = export_bundle(str(checkpoint), out, Options(int8=False), say=lambda line: None)
    assert [path.name for path in (out / "model").iterdir() if path.is_dir()] == ["1"]
    assert bundle.manifest.name == "model"


# What a server refuses.


@pytest.fixture
def copied(tiny_cross_encoder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    folder.mkdir()
    for path in tiny_cross_encoder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_changed_file_is_refused(copied: Path) -> None:
    with (copied / "fp32.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"fp32\.onnx: expected SHA-256"):
        open_bundle(copied)


def test_a_missing_file_is_refused(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: expected a file"):
        open_bundle(copied)


def test_a_newer_format_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "bundle.json").read_text())
    (copied / "bundle.json").write_text(json.dumps({**manifest, "format_version": 2}))
    with pytest.raises(BundleError, match="format_version"):
        open_bundle(copied)


def test_a_manifest_that_names_a_file_without_a_hash_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "bundle.json").read_text())
    del manifest["files"]["fp32.onnx"]
    (copied / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"a hash for fp32\.onnx"):
        open_bundle(copied)
