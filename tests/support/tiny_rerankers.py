"""Tiny real checkpoints of rerankers on decoders: two layers with random weights of a fixed seed, as safetensors."""

from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final, Literal

from tests.support.tiny_decoders import DECODERS

MAX_TOKEN_COUNT: Final = 1024
TokenizerKind = Literal["qwen", "gpt2", "llama"]
"""How real tokenizers split: as Qwen2's, as SmolLM2's, or as Mistral's, which adds a space to the start of a text."""
CHAT: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
_SPECIALS: Final = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# So that these are tokens.
_ANSWERS: Final = "yes\nno\n" * 1000
_QWEN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_TOKEN_COUNT,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}


def write_language_model(
    folder: Path, name: str = "qwen3", tokenizer: TokenizerKind = "qwen", *, seed: int = 7
) -> Path:
    """Write a causal language model of `DECODERS` with a chat template."""
    from transformers import AutoModelForCausalLM

    return _write(folder, AutoModelForCausalLM, name, tokenizer, seed)


def write_classifier(
    folder: Path, name: str, labels: tuple[str, ...] = ("LABEL_0",), *, has_padding: bool = True, seed: int = 7
) -> Path:
    """Write a sequence classifier on a decoder of `DECODERS`."""
    from transformers import AutoModelForSequenceClassification

    names = dict(enumerate(labels))
    given = {"id2label": names, "label2id": {label: index for index, label in names.items()}}
    pad = {} if has_padding else {"pad_token_id": None}
    return _write(folder, AutoModelForSequenceClassification, name, "qwen", seed, **given, **pad)


def _write(folder: Path, auto_class: Any, name: str, kind: TokenizerKind, seed: int, **changes: Any) -> Path:
    import torch
    from transformers import AutoConfig, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    backend = trained(kind)
    model_type, settings = DECODERS[name]
    positions = {"n_positions": MAX_TOKEN_COUNT} if "n_positions" in settings else {}
    known = {"vocab_size": backend.get_vocab_size(), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(model_type, **{**_SIZES, **settings, **positions, **known, **changes})
    auto_class.from_config(config, dtype=torch.float32).save_pretrained(folder, safe_serialization=True)
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=_SPECIALS[0],
        eos_token=_SPECIALS[2],
        chat_template=CHAT,
        model_max_length=MAX_TOKEN_COUNT,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    return folder


@cache
def trained(kind: TokenizerKind) -> Any:
    """Return a byte-level or byte-fallback BPE tokenizer trained on Python's language reference."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=kind == "llama", unk_token="<|endoftext|>"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(_QWEN), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    elif kind == "gpt2":
        digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
        alphabet = []
    tokenizer.decoder = decoders.ByteLevel()
    fallback = [f"<0x{byte:02X}>" for byte in range(256)] if kind == "llama" else []
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=[*_SPECIALS, *fallback], initial_alphabet=alphabet, show_progress=False
    )
    texts = [_ANSWERS, *(topics[name] for name in sorted(topics))]
    tokenizer.train_from_iterator([text if kind != "llama" else text.replace("\n", " ") for text in texts], trainer)
    if kind == "llama":
        tokenizer.pre_tokenizer = None
    return tokenizer
