"""TensorRT: graphs and shapes that its parser takes, engines that are found only where they belong.

Building for real needs a GPU. What needs none: TensorRT-RTX parses and builds on the CPU alone, so that every kind of
graph that export makes is known to be acceptable. It has an extra of its own: tensorrt-rtx.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.inference.bundle import BundleError, open_bundle, sha256
from services.inference.tensorrt import ENGINES, FOLDER, Engines, Profile, machine_key, open_engines, profile_for
from tests.support.checkpoints import write_bi_encoder, write_cross_encoder

KEY = "sm90-tensorrt10.16.1-onnxruntime1.31.1"


def plain(checkpoint: Path, *, multi_vector: bool = False) -> bytes:
    """Return the graph that TensorRT gets for a checkpoint."""
    from export.checkpoint.reader import read_checkpoint
    from export.reference.loader import load_reference
    from export.tensorrt import plain_graph

    read = read_checkpoint(str(checkpoint))
    graph: bytes = plain_graph(load_reference(read, multi_vector=multi_vector)).SerializeToString()
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean", "cls", "lasttoken", "max", "pairs"])
def test_a_parser_takes_every_graph_and_its_profile(tmp_path: Path, kind: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    if kind == "pairs":
        graph = plain(write_cross_encoder(tmp_path / "model", ("no", "maybe", "yes")))
    else:
        graph = plain(write_bi_encoder(tmp_path / "model", kind), multi_vector=True)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(graph), [str(parser.get_error(index)) for index in range(parser.num_errors)]

    wanted = profile_for(64)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        profile.set_shape(network.get_input(index).name, wanted.least, wanted.usual, wanted.most)
    config = builder.create_builder_config()
    assert config.add_optimization_profile(profile) >= 0
    assert builder.build_serialized_network(network, config) is not None


def test_shapes_are_written_as_the_provider_wants_them() -> None:
    profile = Profile(most=(64, 256))
    assert profile.shapes(("input_ids", "attention_mask"), "least") == "input_ids:1x1,attention_mask:1x1"
    assert profile.shapes(("input_ids",), "most") == "input_ids:64x256"


def written(bundle_folder: Path, **changes: str) -> Path:
    """Write a folder of engines beside a bundle, with a wrong file in the engine's place."""
    folder = bundle_folder / FOLDER / KEY
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"engine")
    fields: dict[str, Any] = {"key": KEY, "bundle": open_bundle(bundle_folder).digest, "precision": "fp16", **changes}
    files = {"model.onnx": sha256(folder / "model.onnx")}
    engines = Engines(profile=profile_for(64), tolerance=1e-3, files=files, **fields)
    (folder / ENGINES).write_text(engines.model_dump_json())
    return folder


@pytest.fixture
def copied(tiny_cross_encoder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in tiny_cross_encoder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_engines_are_found_for_their_machine_alone(copied: Path) -> None:
    assert open_engines(open_bundle(copied), KEY) is None
    folder = written(copied)
    found = open_engines(open_bundle(copied), KEY)
    assert found is not None
    assert found[0] == folder
    assert open_engines(open_bundle(copied), KEY.replace("sm90", "sm80")) is None


def test_engines_of_another_bundle_are_refused(copied: Path) -> None:
    written(copied, bundle="0" * 64)
    with pytest.raises(BundleError, match="build them again"):
        open_engines(open_bundle(copied), KEY)


def test_a_damaged_engine_is_refused(copied: Path) -> None:
    (written(copied) / "model.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match=r"model\.onnx: expected SHA-256"):
        open_engines(open_bundle(copied), KEY)


@pytest.mark.skipif(machine_key() is not None, reason="this machine has a GPU and TensorRT")
def test_without_a_gpu_it_says_so_and_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", str(tmp_path), "--out", str(tmp_path / "out"), "--tensorrt"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert "expected an NVIDIA GPU" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.skipif(machine_key() is None, reason="needs an NVIDIA GPU, onnxruntime-gpu and TensorRT")
def test_engines_give_what_the_original_gives(tmp_path: Path) -> None:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    from export.build import export_bundle
    from export.options import Options
    from export.tensorrt import export_engines, required_key

    checkpoint = write_bi_encoder(tmp_path / "model")
    options = Options(int8=False)
    bundle = export_bundle(str(checkpoint), tmp_path / "out", options)
    export_engines(str(checkpoint), bundle, options, required_key())
    found = open_engines(bundle, required_key())
    assert found is not None
    folder, engines = found
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["TensorrtExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(bundle.folder / "tokenizer.json"))
    tokenizer.enable_truncation(bundle.manifest.max_token_count)
    golden = np.load(bundle.folder / "golden.npz")
    for text, expected in zip(golden["texts"].tolist(), golden["dense"], strict=True):
        encoding = tokenizer.encode(text)
        columns = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}
        columns["token_type_ids"] = encoding.type_ids
        feed = {name: np.array([columns[name]], dtype=np.int64) for name in bundle.manifest.inputs}
        assert 1 - float(session.run(["dense"], feed)[0][0] @ expected) <= engines.tolerance
