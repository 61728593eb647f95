"""A checkpoint that cannot become a bundle is refused with a sentence, and nothing is written."""

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support.checkpoints import write_bi_encoder, write_cross_encoder

# What a person who exports a model can do nothing with.
INTERNAL: Final = re.compile(r"Traceback|site-packages|<class|\b\w+(?:Error|Exception|Warning)\b|\.py\b")


def refusal(checkpoint: Path | str, out: Path, *options: str) -> str:
    """Return what the command prints to standard error. Nothing is written, and no internal name is shown."""
    import transformers

    from export.__main__ import app

    result = CliRunner().invoke(app, [str(checkpoint), "--out", str(out), "--no-int8", *options])
    assert result.exit_code == 1
    assert not out.exists()
    assert not INTERNAL.search(result.output), result.output
    words = set(re.findall(r"\b[A-Z]\w+\b", result.output.replace(str(checkpoint), "")))
    assert not words & {name for name in dir(transformers) if name[0].isupper() and not name.isupper()}, result.output
    assert result.stderr.startswith("export: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    """Restore what the command changes for the whole process."""
    import transformers

    before = transformers.logging.get_verbosity()
    yield
    transformers.logging.set_verbosity(before)
    for name in ("onnxruntime", "optimum", "sentence_transformers", "torch", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bi_encoder(tmp_path_factory.mktemp("refusals") / "original")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).unlink()


def larger_vocabulary(folder: Path) -> None:
    """Give the model the first 100 rows of its embeddings, as if the tokenizer were that of another model."""
    change_json(folder / "config.json", vocab_size=100)
    name = "embeddings.word_embeddings.weight"
    change_weights(folder, lambda weights: weights.update({name: weights[name][:100].copy()}))


def pickle_only(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def remote_code(folder: Path) -> None:
    change_json(folder / "config.json", model_type="homemade", auto_map={"AutoConfig": "code.Config"})
    (folder / "code.py").write_text("raise SystemExit('code of the checkpoint ran')")


def missing_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def foreign_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def one_weight(value: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        name = "encoder.layer.1.output.dense.bias"
        change_weights(folder, lambda weights: weights[name].__setitem__(0, value))

    return change


def link_elsewhere(folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    (folder / "vocab.txt").unlink()
    (folder / "vocab.txt").symlink_to("../secret")


CASES: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "no tokenizer": (without_tokenizer, r"expected a tokenizer \(tokenizer\.json\), found none"),
    "a damaged tokenizer": (lambda at: (at / "tokenizer.json").write_text("{}"), "transformers cannot load this"),
    "another vocabulary": (larger_vocabulary, "expected a tokenizer of the model's 100 tokens, found one with the id"),
    "pickle only": (pickle_only, r"found pytorch_model\.bin: a pickle can run code"),
    "remote code": (remote_code, "never runs code of a checkpoint"),
    "an unknown architecture": (
        lambda at: change_json(at / "config.json", model_type="homemade"),
        "does not know the architecture homemade",
    ),
    "a module with code": (
        lambda at: _module(at, "custom_code.Pooling"),
        r"found .*custom_code\.Pooling",
    ),
    "a wrong pooling dimension": (
        lambda at: change_json(at / "1_Pooling" / "config.json", word_embedding_dimension=48, embedding_dimension=48),
        "Pooling: expected vectors of 48 dimensions before it, found 32",
    ),
    "a missing shard": (missing_shard, r"of which 1 are missing: model-00001-of-00002\.safetensors"),
    "a shard elsewhere": (foreign_shard, r"expected names of files in this folder, found '\.\./elsewhere"),
    "no layers": (lambda at: change_json(at / "config.json", num_hidden_layers=0), "found one with 0 layers"),
    "a layer less than weights": (
        lambda at: change_json(at / "config.json", num_hidden_layers=1),
        "the weights contradict config.json",
    ),
    "a layer more than weights": (
        lambda at: change_json(at / "config.json", num_hidden_layers=3),
        "transformers would draw them at random",
    ),
    "another width": (
        lambda at: change_json(at / "config.json", intermediate_size=32),
        r"the weights contradict config\.json: expected \S+ of shape \[32.*\], found \[64",
    ),
    "NaN": (one_weight(np.nan), "found NaN or infinity in encoder.layer.1.output.dense.bias"),
    "infinity": (one_weight(-np.inf), "found NaN or infinity in encoder.layer.1.output.dense.bias"),
    "damaged weights": (
        lambda at: (at / "model.safetensors").write_bytes(b"x" * 100),
        "a file of weights is damaged. Download it again",
    ),
    "a module elsewhere": (lambda at: _module(at, path="../1_Pooling"), "expected a folder inside the checkpoint"),
    "a link elsewhere": (link_elsewhere, r"vocab\.txt: expected a file in the checkpoint's folder, found a link"),
    "numbers for words": (lambda at: change_json(at / "config.json", architectures=5), "found a value of another kind"),
    "a list for an object": (lambda at: (at / "config.json").write_text("[]"), "expected an object"),
    "heads that do not divide": (
        lambda at: change_json(at / "config.json", num_attention_heads=5),
        "is not a multiple of the number of attention heads",
    ),
}


def _module(folder: Path, kind: str = "sentence_transformers.models.Pooling", path: str = "1_Pooling") -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1] |= {"type": kind, "path": path}
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("case", CASES)
def test_a_bad_checkpoint_is_refused_with_a_sentence(model: Path, tmp_path: Path, case: str) -> None:
    change, message = CASES[case]
    change(model)
    assert re.search(message, refusal(model, tmp_path / "out"))


def test_a_random_classifier_is_refused(model: Path, tmp_path: Path) -> None:
    message = refusal(model, tmp_path / "out", "--task", "cross-encoder")
    assert "expected weights for classifier.bias and 1 more, found none" in message


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".", ""])
def test_a_name_that_leaves_the_folder_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    assert "--name: expected letters" in refusal(model, tmp_path / "out", "--name", name)


def test_links_of_the_cache_of_the_hub_are_followed(original: Path, tmp_path: Path) -> None:
    from export.checkpoint.files import check_links

    folder = Path(shutil.copytree(original, tmp_path / "models--a--b" / "snapshots" / "0123"))
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (folder / "model.safetensors").rename(tmp_path / "models--a--b" / "blobs" / "4567")
    (folder / "model.safetensors").symlink_to("../../blobs/4567")
    check_links(folder)


def test_a_base_model_without_pooler_is_exported(tmp_path: Path) -> None:
    """Checkpoints of masked language models have no pooler, and a bi-encoder uses none."""
    from export.checkpoint.reader import read_checkpoint
    from export.reference.loader import load_reference

    model = write_bi_encoder(tmp_path / "model")
    change_weights(model, lambda weights: [weights.pop(f"pooler.dense.{part}") for part in ("weight", "bias")])
    load_reference(read_checkpoint(str(model)), multi_vector=False)


def test_what_exists_stays_when_an_export_fails(tmp_path: Path) -> None:
    from export.atomic_output import locked

    folder = tmp_path / "out" / "model" / "2"
    (tmp_path / "out" / "model" / "1").mkdir(parents=True)
    with pytest.raises(RuntimeError), locked(folder):
        raise RuntimeError
    assert [path.name for path in (tmp_path / "out" / "model").iterdir()] == ["1"]


def test_the_command_prints_only_its_own_lines(tmp_path: Path) -> None:
    """In a process of its own, because libraries also write to the terminal's file descriptors."""
    model = write_cross_encoder(tmp_path / "model")
    command = [sys.executable, "-m", "export", str(model), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stderr == ""
    starts = ("loading", "exporting", "running", "warning", "comparing", "variant", "fp32", "int8", "wrote", "skipped")
    assert all(line.split()[0] in starts or line.startswith("   ") for line in result.stdout.splitlines())
    (model / "model.safetensors").write_bytes(b"")
    verbose = subprocess.run([*command, "--verbose"], check=False, capture_output=True, text=True)
    assert verbose.returncode == 1
    assert "Traceback" in verbose.stderr
