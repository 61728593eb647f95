"""Rerankers on language models: bundles equal transformers, and rows have the tokens of the whole prompt."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from export.checkpoint.reader import read_checkpoint
from export.errors import ExportError
from export.prompt.cuts import cut
from export.prompt.options import PromptOptions
from export.prompt.template import IDENTIFIERS, Template, list_template, pair_template
from services.core.arrays import F32
from services.inference.bundle import TOKENIZER, open_bundle
from services.inference.prompt import PromptRows
from services.inference.session import Session
from services.inference.tokenizer import Input, Tokenizer
from tests.support.bundles import export_tiny
from tests.support.tiny_models import ENCODERS, Architecture, write_model
from tests.support.tiny_rerankers import TokenizerKind, write_classifier, write_language_model

QUERY = "how do I open a file?"
DOCUMENTS = ["sort a list", "Open a file, and read it line by line.", "7", "what is a generator?\n", "é 日本 🙂"]
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
TOKENIZERS: tuple[TokenizerKind, ...] = ("qwen", "gpt2", "llama")
# Texts that merge with what is beside them in one tokenizer or another.
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    st.lists(st.sampled_from(["file", " ", "\n", "?", ".", "'s", "7", "é", "\u0301", "日", "[A]", "  "])).map("".join),
).filter(str.strip)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: write_language_model(folder / kind, "qwen3", kind) for kind in TOKENIZERS}


@pytest.fixture(scope="module")
def prompts(checkpoints: dict[str, Path]) -> dict[tuple[str, str], tuple[PromptRows, Template, Tokenizer]]:
    """The rows, the template and the tokenizer of each kind, for pairs and lists."""
    found = {}
    for kind, folder in checkpoints.items():
        fast = AutoTokenizer.from_pretrained(folder)
        own = Tokenizer(folder / TOKENIZER, max_token_count=2**20)
        for shape, template, identifiers in (
            ("pair", pair_template(fast, PromptOptions()), ()),
            ("list", list_template(fast, PromptOptions()), IDENTIFIERS),
        ):
            rows = PromptRows(cut(template, own, identifiers), own, max_token_count=2**20)
            found[kind, shape] = (rows, template, own)
    return found


def logits_of(bundle: Path, rows: Sequence[Input]) -> F32:
    """The logits of rows, in one batch."""
    return Session(open_bundle(bundle), "fp32").run(rows, ["logits"])["logits"]


def test_the_prompt_of_pairs_is_that_of_qwen3_reranker(checkpoints: dict[str, Path]) -> None:
    template = pair_template(AutoTokenizer.from_pretrained(checkpoints["qwen"]), PromptOptions())
    assert template.fill("Q", ("D",)) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<Instruct>: {INSTRUCTION}\n<Query>: Q\n"
        "<Document>: D<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(query=TEXTS, document=TEXTS)
def test_ids_of_pairs_are_those_of_the_official_prompt(
    prompts: dict[tuple[str, str], tuple[PromptRows, Template, Tokenizer]], kind: str, query: str, document: str
) -> None:
    rows, template, own = prompts[kind, "pair"]
    queries, [ids] = rows.split(own.tokenize(rows.texts(query, [document])))
    found = rows.pair(queries, ids, "refuse")
    assert found.ids == tuple(own.tokenize([template.fill(query, (document,))])[0])


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(query=TEXTS, documents=st.lists(TEXTS, min_size=1, max_size=4))
def test_ids_of_lists_are_those_of_the_whole_prompt(
    prompts: dict[tuple[str, str], tuple[PromptRows, Template, Tokenizer]],
    kind: str,
    query: str,
    documents: list[str],
) -> None:
    rows, template, own = prompts[kind, "list"]
    found = rows.row(*rows.split(own.tokenize(rows.texts(query, documents))), "refuse")
    assert found.row.ids == tuple(own.tokenize([template.fill(query, tuple(documents))])[0])


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_a_yes_no_reranker_equals_transformers(tmp_path: Path, name: str) -> None:
    """gemma2 bends its logits before they are compared."""
    checkpoint = write_language_model(tmp_path / "model", name)
    bundle = export_tiny(checkpoint, tmp_path / "out", task="yes-no-reranker", max_token_count=256)
    fast, model = AutoTokenizer.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)
    yes, no = fast.convert_tokens_to_ids(["yes", "no"])
    manifest, own = open_bundle(bundle).manifest, Tokenizer(bundle / TOKENIZER, max_token_count=256)
    assert manifest.prompt is not None
    rows = PromptRows(manifest.prompt, own, max_token_count=256)
    inputs, expected = [], []
    for document in DOCUMENTS:
        queries, [ids] = rows.split(own.tokenize(rows.texts(QUERY, [document])))
        inputs.append(rows.pair(queries, ids, "end"))
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {document}"},
        ]
        text = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        with torch.inference_mode():
            logits = model(**fast(text, add_special_tokens=False, return_tensors="pt")).logits[0, -1]
        expected.append(float(logits[yes] - logits[no]))
    np.testing.assert_allclose(logits_of(bundle, inputs)[:, 0], expected, atol=1e-3)
    assert np.ptp(expected) > 0.1


def test_a_crossencoder_of_a_language_model_is_recognized(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    checkpoint = write_language_model(tmp_path / "model")
    CrossEncoder(str(checkpoint), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert read_checkpoint(str(tmp_path / "saved")).task == "yes-no-reranker"
    assert read_checkpoint(str(checkpoint)).task == "bi-encoder"
    (checkpoint / "README.md").write_text("---\npipeline_tag: text-ranking\n---\n")
    assert read_checkpoint(str(checkpoint)).task == "yes-no-reranker"


def test_a_crossencoder_of_an_encoder_is_recognized(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    checkpoint = write_model(tmp_path / "model", ENCODERS[0], "cross-encoder")
    CrossEncoder(str(checkpoint), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert read_checkpoint(str(tmp_path / "saved")).task == "cross-encoder"


@pytest.mark.parametrize("name", ["qwen3", "llama", "gpt2", "gemma"])
@pytest.mark.parametrize("has_padding", [True, False])
def test_a_decoder_with_labels_equals_transformers(tmp_path: Path, name: str, has_padding: bool) -> None:
    labels = ("LABEL_0",) if has_padding else ("contradiction", "neutral", "entailment")
    checkpoint = write_classifier(tmp_path / "model", name, labels, has_padding=has_padding)
    bundle = export_tiny(checkpoint, tmp_path / "out", max_token_count=96)
    fast = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    own = Tokenizer(bundle / TOKENIZER, max_token_count=96)
    query, *others = own.tokenize([QUERY, *DOCUMENTS])
    with torch.inference_mode():
        expected = [model(**fast(QUERY, text, return_tensors="pt")).logits[0].numpy() for text in DOCUMENTS]
    found = logits_of(bundle, [own.pair(query, ids, "end") for ids in others])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.ptp(expected, axis=0).min() > 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "architecture", [one for one in ENCODERS if str(one) in {"modernbert", "deberta-v2", "xlm-roberta"}], ids=str
)
def test_an_encoder_with_a_label_equals_transformers(tmp_path: Path, architecture: Architecture) -> None:
    checkpoint = write_model(tmp_path / "model", architecture, "cross-encoder")
    bundle = export_tiny(checkpoint, tmp_path / "out", max_token_count=64)
    fast = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    own = Tokenizer(bundle / TOKENIZER, max_token_count=64)
    query, *others = own.tokenize([QUERY, *DOCUMENTS])
    names = set(open_bundle(bundle).manifest.inputs)
    with torch.inference_mode():
        given_ = [fast(QUERY, text, return_tensors="pt") for text in DOCUMENTS]
        kept = [{name: value for name, value in one.items() if name in names} for one in given_]
        expected = [model(**one).logits[0].numpy() for one in kept]
    found = logits_of(bundle, [own.pair(query, ids, "end") for ids in others])
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"yes_token": "absolutely not one token"}, "--yes-token: expected one token"),
        ({"template": "{query}"}, "expected {query} and {document}"),
        ({"max_token_count": 64}, "--max-token-count: expected a limit of"),
    ],
)
def test_wrong_options_are_refused(
    checkpoints: dict[str, Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ExportError, match=message.replace("{", r"\{").replace("}", r"\}")):
        export_tiny(checkpoints["qwen"], tmp_path, task="yes-no-reranker", **changes)


def test_a_tokenizer_without_a_chat_template_needs_a_template(tmp_path: Path) -> None:
    checkpoint = write_language_model(tmp_path / "model")
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    path = checkpoint / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    path.write_text(json.dumps(config))
    with pytest.raises(ExportError, match="--template"):
        export_tiny(checkpoint, tmp_path / "out", task="yes-no-reranker")
    text = "Query: {query}\nDocument: {document}\nRelevant:"
    bundle = export_tiny(checkpoint, tmp_path / "out", task="yes-no-reranker", template=text, max_token_count=96)
    assert open_bundle(bundle).manifest.prompt is not None
