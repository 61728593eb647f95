"""LoRA adapters are merged at export: the bundle computes what the original computes with the adapters beside it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.inference.bundle import open_bundle
from tests.support.adapters import LAYERS, OUTPUT, PREFIX, QUERY, Tensors, low_rank, write_adapter
from tests.support.bundles import cosines
from tests.support.checkpoints import write_cross_encoder
from tests.support.tiny_decoders import write_decoder

pytestmark = pytest.mark.slow

TEXTS = ["What does yield do?", "größer than ☃", "a class is a callable " * 3, "for each item in turn " * 40]
PAIRS = [(query, text) for query in ("assert", "What is a class?") for text in TEXTS]


def attach(model: Any, tensors: Tensors, scale: float | Callable[[str], float], weight: float = 1) -> None:
    """Add weight · scale · B(A(x)) to the output of each layer, as PEFT does before a merge."""
    import torch

    for key in tensors:
        if not key.endswith(".lora_A.weight"):
            continue
        layer = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        a, b = (torch.from_numpy(tensors[f"{PREFIX}{layer}.lora_{part}.weight"]) for part in "AB")
        factor = weight * (scale if isinstance(scale, float) else scale(layer))

        def add(_: Any, inputs: tuple[Any], output: Any, a: Any = a, b: Any = b, factor: float = factor) -> Any:
            return output + factor * (inputs[0] @ a.T @ b.T)

        model.get_submodule(layer).register_forward_hook(add)


def served(folder: Path, items: list[Any], output: str) -> NDArray[np.float32]:
    """Return the outputs of the bundle's fp32 graph."""
    from tokenizers import Tokenizer

    from export.parity.onnx_runner import Graph

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(open_bundle(folder).manifest.max_token_count)
    tokenizer.enable_padding()
    return np.stack(Graph(folder / "fp32.onnx", tokenizer).run(items, batch_size=len(items))[output])


def export(checkpoint: Path, out: Path, *adapters: str, said: list[str] | None = None) -> Path:
    from export.build import export_bundle
    from export.options import Options

    options = Options(int8=False, adapters=adapters)
    return export_bundle(str(checkpoint), out, options, say=(said if said is not None else []).append).folder


def test_weighted_adapters_of_a_bi_encoder_add_up(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    checkpoint = tiny_bi_encoder.parents[2] / "tiny"
    first, second = low_rank(), low_rank({OUTPUT: LAYERS[OUTPUT]}, rank=8, seed=12)
    legal, medical = write_adapter(tmp_path / "legal", first), write_adapter(tmp_path / "medical", second, r=8)
    bundle = export(checkpoint, tmp_path / "out", f"{legal}", f"{medical}:-0.5")

    original = SentenceTransformer(str(checkpoint), device="cpu")
    before = original.encode(TEXTS)
    attach(original[0].auto_model, first, 2 / 4)
    attach(original[0].auto_model, second, 2 / 8, weight=-0.5)
    vectors = served(bundle, TEXTS, "dense")
    assert cosines(vectors, original.encode(TEXTS)).min() >= 0.9999
    assert cosines(vectors, before).max() < 0.9


def test_an_adapter_of_a_cross_encoder_brings_its_classifier(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    checkpoint = write_cross_encoder(tmp_path / "model")
    pairs = low_rank({f"bert.{layer}": shape for layer, shape in LAYERS.items()})
    classifier = np.random.default_rng(13).normal(size=(1, 32)).astype(np.float32)
    tensors = {**pairs, f"{PREFIX}classifier.weight": classifier}
    adapter = write_adapter(tmp_path / "adapter", tensors, modules_to_save=["classifier", "score"])
    bundle = export(checkpoint, tmp_path / "out", str(adapter))

    original = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    inputs = AutoTokenizer.from_pretrained(checkpoint)(
        PAIRS, padding=True, truncation=True, max_length=128, return_tensors="pt"
    )
    with torch.inference_mode():
        before = original(**inputs).logits.numpy()
        attach(original, pairs, 2 / 4)
        original.classifier.weight.copy_(torch.from_numpy(classifier))
        expected = original(**inputs).logits.numpy()
    logits = served(bundle, PAIRS, "logits")
    assert np.abs(logits - expected).max() <= 1e-3
    assert np.abs(logits - before).max() > 0.1


def test_an_adapter_brings_the_classifier_that_its_base_model_has_not(tmp_path: Path) -> None:
    """As PEFT trains a classifier on a model without one."""
    from export.build import export_bundle
    from export.errors import ExportError
    from export.options import Options
    from tests.support.tiny_models import ENCODERS, write_model

    checkpoint = write_model(tmp_path / "model", ENCODERS[0])
    options = Options(int8=False, task="cross-encoder")
    classifier = {f"{PREFIX}classifier.weight": np.ones((1, 32), dtype=np.float32)}
    bias = {f"{PREFIX}classifier.bias": np.zeros(1, dtype=np.float32)}
    incomplete = write_adapter(tmp_path / "incomplete", low_rank() | classifier)
    complete = write_adapter(tmp_path / "complete", low_rank() | classifier | bias)
    for adapter in (f"{incomplete}", f"{complete}:0.5"):
        with pytest.raises(ExportError, match=r"expected weights for classifier\.\w+"):
            export_bundle(str(checkpoint), tmp_path / "out", replace(options, adapters=(adapter,)))
    bundle = export_bundle(str(checkpoint), tmp_path / "out", replace(options, adapters=(str(complete),)))
    assert bundle.manifest.task == "cross_encoder"


def test_an_adapter_of_a_decoder(tmp_path: Path) -> None:
    """It was trained on the language model, whose names have the body's before them."""
    from sentence_transformers import SentenceTransformer

    checkpoint = write_decoder(tmp_path / "model", "llama")
    layers = {"layers.0.self_attn.q_proj": (32, 32), "layers.1.mlp.down_proj": (32, 64)}
    trained = low_rank({f"model.{layer}": shape for layer, shape in layers.items()})
    adapter = write_adapter(tmp_path / "adapter", trained, task_type="CAUSAL_LM", use_rslora=True)
    bundle = export(checkpoint, tmp_path / "out", str(adapter))

    original = SentenceTransformer(str(checkpoint), device="cpu")
    before = original.encode(TEXTS)
    attach(original[0].auto_model, low_rank(layers), 2 / math.sqrt(4))
    vectors = served(bundle, TEXTS, "dense")
    assert cosines(vectors, original.encode(TEXTS)).min() >= 0.9999
    assert cosines(vectors, before).max() < 0.9


def test_another_adapter_is_another_bundle(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    checkpoint = tiny_bi_encoder.parents[2] / "tiny"
    adapter = write_adapter(tmp_path / "legal")

    def exported(weight: str) -> tuple[str, str, bool]:
        said: list[str] = []
        bundle = open_bundle(export(checkpoint, tmp_path / "out", f"{adapter}:{weight}", said=said))
        return bundle.digest, bundle.manifest.source.options["adapters"], "already exists" in said[-1]

    first, again, weaker = exported("1"), exported("1"), exported("0.5")
    assert again == (*first[:2], True)
    assert weaker[0] != first[0]
    assert weaker[1].startswith("legal:0.5 sha256:")
    assert weaker[1].endswith(" of sluice/tiny")
    (adapter / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text().replace("0.1", "0.2"))
    changed = exported("0.5")
    assert not changed[2]
    assert changed[1] != weaker[1]


# The merge itself, on models in memory.


def bert() -> Any:
    import torch
    from transformers import BertConfig, BertModel

    from tests.support.checkpoints import SIZES

    torch.manual_seed(7)
    return BertModel(BertConfig(vocab_size=50, **SIZES)).eval()


def states(model: Any) -> NDArray[np.float32]:
    """Return the last states of some tokens."""
    import torch

    with torch.inference_mode():
        result: NDArray[np.float32] = model(torch.arange(24).reshape(2, 12)).last_hidden_state.numpy()
    return result


def merged(model: Any, folder: Path, weight: float = 1) -> NDArray[np.float32]:
    from export.checkpoint.adapter import read_adapter
    from export.reference.adapter_merge import merge_adapters

    merge_adapters(model, [read_adapter(f"{folder}:{weight}")])
    return states(model)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, lambda layer: 2 / 4),
        ({"use_rslora": True}, lambda layer: 2 / math.sqrt(4)),
        ({"target_modules": r".*\.(query|dense)"}, lambda layer: 2 / 4),
        ({"alpha_pattern": {"output.dense": 6}}, lambda layer: 6 / 4 if layer == OUTPUT else 2 / 4),
        ({"alpha_pattern": {"encoder.layer.[05].*": 6}}, lambda layer: 6 / 4 if layer == QUERY else 2 / 4),
        ({"r": 8, "rank_pattern": {"query": 4, "1.output.dense": 4}}, lambda layer: 2 / 4),
    ],
)
def test_scale_and_patterns(tmp_path: Path, config: dict[str, Any], scale: Callable[[str], float]) -> None:
    beside = bert()
    attach(beside, low_rank(), scale)
    found = merged(bert(), write_adapter(tmp_path / "adapter", **config))
    np.testing.assert_allclose(found, states(beside), atol=1e-4)
    assert np.abs(found - states(bert())).max() > 0.1


@pytest.mark.parametrize("prefix", ["", "base_model.model.bert.", "base_model.model.0.auto_model."])
def test_names_of_layers_in_other_models(tmp_path: Path, prefix: str) -> None:
    renamed = {key.replace(PREFIX, prefix): value for key, value in low_rank().items()}
    given, plain = write_adapter(tmp_path / "given", renamed), write_adapter(tmp_path / "plain")
    np.testing.assert_array_equal(merged(bert(), given), merged(bert(), plain))


def test_half_precision_adapters(tmp_path: Path) -> None:
    half = {key: value.astype(np.float16) for key, value in low_rank().items()}
    beside = bert()
    attach(beside, {key: value.astype(np.float32) for key, value in half.items()}, 2 / 4)
    found = merged(bert(), write_adapter(tmp_path / "adapter", half))  # type: ignore[arg-type]
    np.testing.assert_allclose(found, states(beside), atol=1e-4)


def test_conv1d_of_gpt2_has_transposed_weights(tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(7)
    model = GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, initializer_range=0.3)).eval()
    before, tensors = states(model), low_rank({"h.0.attn.c_attn": (96, 32), "h.1.mlp.c_proj": (32, 128)})
    adapter = write_adapter(tmp_path / "adapter", tensors, fan_in_fan_out=True)
    found = merged(model, adapter)
    merged(model, adapter, weight=-1)
    np.testing.assert_allclose(states(model), before, atol=1e-4)
    attach(model, tensors, 2 / 4)
    np.testing.assert_allclose(found, states(model), atol=1e-4)
    assert np.abs(found - before).max() > 0.1


def test_embeddings(tmp_path: Path) -> None:
    import torch

    random = np.random.default_rng(11)
    a, b = (random.normal(size=shape).astype(np.float32) for shape in ((4, 50), (32, 4)))
    layer = f"{PREFIX}embeddings.word_embeddings"
    tensors = {f"{layer}.lora_embedding_A": a, f"{layer}.lora_embedding_B": b}
    beside = bert()
    change = torch.from_numpy(2 / 4 * (b @ a).T)
    beside.embeddings.word_embeddings.register_forward_hook(lambda _, inputs, output: output + change[inputs[0]])
    np.testing.assert_allclose(merged(bert(), write_adapter(tmp_path / "adapter", tensors)), states(beside), atol=1e-4)


def test_dora_gives_each_channel_its_magnitude(tmp_path: Path) -> None:
    import torch

    magnitudes = np.random.default_rng(14).uniform(1, 3, size=32).astype(np.float32)
    tensors = low_rank({QUERY: LAYERS[QUERY]})
    beside = bert()
    attach(beside, tensors, 2 / 4)
    query = beside.get_submodule(QUERY)
    a, b = (torch.from_numpy(tensors[f"{PREFIX}{QUERY}.lora_{part}.weight"]) for part in "AB")
    norms = torch.linalg.norm(query.weight.detach() + 2 / 4 * (b @ a), dim=1)
    factors = torch.from_numpy(magnitudes) / norms
    query.register_forward_hook(lambda _, inputs, output: (output - query.bias) * factors + query.bias)
    adapter = write_adapter(
        tmp_path / "adapter", {**tensors, f"{PREFIX}{QUERY}.lora_magnitude_vector": magnitudes}, use_dora=True
    )
    np.testing.assert_allclose(merged(bert(), adapter), states(beside), atol=1e-4)


# Rejected adapters. Nothing is written.

QUERY_A = f"{PREFIX}{QUERY}.lora_A.weight"


def without(*keys: str) -> Tensors:
    return {key: value for key, value in low_rank().items() if key not in keys}


def reshaped(key: str, *shape: int) -> Tensors:
    return {**low_rank(), key: np.ones(shape, dtype=np.float32)}


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (None, {"peft_type": "IA3"}, r"with peft_type LORA, found IA3: .*merge_and_unload"),
        (None, {"bias": "all"}, r"with bias none, found all"),
        (None, {"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights True, found pissa_niter_4"),
        (None, {"layer_replication": [[0, 1]]}, r"layer_replication None, found \[\[0, 1\]\]"),
        (None, {"r": 0}, r"r: Input should be greater than 0, found 0"),
        (None, {"r": "four"}, r"r: Input should be a valid integer.*found 'four'"),
        (None, {"lora_alpha": math.inf}, r"lora_alpha: Input should be a finite number"),
        (None, {"rank_pattern": {"(": 4}}, r"'\(': expected a regular expression"),
        (None, {"r": 8}, r"query: expected matrices \[8, in\] and \[out, 8\] of rank 8, found \[4, 32\] and \[32, 4\]"),
        (reshaped(QUERY_A, 4, 31), {}, r"query: expected the shape \[32, 32\] .* found \[32, 31\]"),
        (reshaped(QUERY_A, 4), {}, r"query: expected matrices \[4, in\]"),
        (reshaped(QUERY_A, 4, 32) | {QUERY_A: np.full((4, 32), np.nan, dtype=np.float32)}, {}, r"expected finite"),
        (without(QUERY_A), {}, r"query: expected lora_A, lora_B .* found lora_B"),
        (low_rank({"encoder.layer.7.output.dense": (32, 64)}), {}, r"found none of this name.*states sluice/tiny"),
        (low_rank({"../../encoder": (32, 64)}), {}, r"found none of this name"),
        (low_rank({"embeddings.LayerNorm": (32, 32)}), {}, r"of a linear layer or an embedding"),
        (low_rank() | {f"{PREFIX}pooler.dense.weight": np.ones((3, 3), dtype=np.float32)}, {}, r"found \[3, 3\]"),
        (low_rank() | {f"{PREFIX}{QUERY}.lora_C": np.ones(3, dtype=np.float32)}, {}, r"lora_C: .*cannot be merged"),
        (None, {"use_dora": True}, r"expected lora_A, lora_B, lora_magnitude_vector .* found lora_A, lora_B"),
        ({}, {}, r"expected the weights of an adapter, found none"),
    ],
)
def test_an_adapter_that_does_not_fit_is_rejected(
    tmp_path: Path, tiny_bi_encoder: Path, tensors: Tensors | None, config: dict[str, Any], message: str
) -> None:
    reject(tmp_path, tiny_bi_encoder, str(write_adapter(tmp_path / "adapter", tensors, **config)), message)


def reject(tmp_path: Path, tiny_bi_encoder: Path, adapter: str, message: str) -> None:
    from export.errors import ExportError

    with pytest.raises(ExportError, match=message):
        export(tiny_bi_encoder.parents[2] / "tiny", tmp_path / "out", adapter)
    assert not list(tmp_path.glob("out/*/1"))
    assert not list(tmp_path.glob("out/*/*.onnx"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_config.json", None, "found no adapter_config.json"),
        ("adapter_config.json", b"{", "expected JSON"),
        ("adapter_config.json", b"[]", "expected an object, found list"),
        ("adapter_model.safetensors", None, r"adapter_model\.safetensors, found none"),
        ("adapter_model.safetensors", b"\x80\x04not safetensors", "expected safetensors"),
    ],
)
def test_missing_and_broken_files_are_rejected(
    tmp_path: Path, tiny_bi_encoder: Path, file: str, content: bytes | None, message: str
) -> None:
    path = write_adapter(tmp_path / "adapter") / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    reject(tmp_path, tiny_bi_encoder, str(tmp_path / "adapter"), message)


def test_pickles_are_rejected(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    reject(tmp_path, tiny_bi_encoder, str(adapter), r"found adapter_model\.bin: a pickle")


@pytest.mark.parametrize("given", ["adapter:heavy", "adapter:nan", "adapter:"])
def test_a_weight_that_is_no_number_is_rejected(tmp_path: Path, tiny_bi_encoder: Path, given: str) -> None:
    write_adapter(tmp_path / "adapter")
    reject(tmp_path, tiny_bi_encoder, f"{tmp_path}/{given}", "--adapter: expected FOLDER or FOLDER:WEIGHT")


def test_shared_weights_are_rejected(tmp_path: Path) -> None:
    """The table of a masked language model is also its output layer, which this adapter does not change."""
    from transformers import BertConfig, BertForMaskedLM

    from export.errors import ExportError
    from tests.support.checkpoints import SIZES

    table = np.ones((50, 32), dtype=np.float32)
    tensors = {f"{PREFIX}bert.embeddings.word_embeddings.weight": table}
    model = BertForMaskedLM(BertConfig(vocab_size=50, **SIZES))
    with pytest.raises(ExportError, match=r"cls\.predictions\.decoder\.weight shares these weights"):
        merged(model, write_adapter(tmp_path / "adapter", tensors))


def test_an_adapter_in_place_of_a_checkpoint_is_rejected(tmp_path: Path) -> None:
    from export.errors import ExportError

    adapter = write_adapter(tmp_path / "adapter")
    with pytest.raises(ExportError, match=r"found an adapter: export sluice/tiny with --adapter"):
        export(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_takes_adapters(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    from typer.testing import CliRunner

    from export.__main__ import app

    arguments = ["--no-int8", "--out", str(tmp_path / "out"), "--adapter", str(write_adapter(tmp_path / "legal"))]
    result = CliRunner().invoke(app, [str(tiny_bi_encoder.parents[2] / "tiny"), *arguments])
    assert result.exit_code == 0, result.output
    assert "merging the adapter legal:1.0 sha256:" in result.output
    manifest = json.loads((tmp_path / "out" / "tiny" / "1" / "bundle.json").read_text())
    assert manifest["source"]["options"]["adapters"].startswith("legal:1.0 sha256:")
