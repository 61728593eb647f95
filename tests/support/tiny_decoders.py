"""Tiny real decoders: two layers with random weights of a fixed seed, and a byte-level BPE tokenizer, as safetensors.

They are written by transformers and sentence-transformers themselves. Weights are drawn wide, so that the vectors of
different texts differ as those of a trained model do. Attention windows are shorter than the longest text.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final, Literal

MAX_TOKEN_COUNT: Final = 96
WINDOW: Final = 16
_VOCABULARY: Final = 600
_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
_GROUPED: Final = {"num_key_value_heads": 2}
_GPT2: Final = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 64, "initializer_range": 0.3}
_GEMMA: Final = {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW}
_LAYERS: Final = {"layer_types": ["sliding_attention", "full_attention"]}

DECODERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("llama", _GROUPED),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", {**_GROUPED, "head_dim": 8}),
    "gemma": ("gemma", {**_GROUPED, "head_dim": 8}),
    "gemma2": ("gemma2", {**_GEMMA, **_LAYERS}),
    "gemma3": ("gemma3_text", {**_GEMMA, **_LAYERS}),
    "embedding-gemma": ("gemma3_text", {**_GEMMA, **_LAYERS, "use_bidirectional_attention": True}),
    "phi3": ("phi3", {**_GROUPED, "sliding_window": WINDOW}),
    "phi": ("phi", {}),
    "gpt2": ("gpt2", _GPT2),
    "gpt-neox": ("gpt_neox", {}),
    "opt": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "smollm3": ("smollm3", _GROUPED),
    "olmo2": ("olmo2", _GROUPED),
    "granite": ("granite", _GROUPED),
}
"""Name of each decoder: its model type in transformers, and its settings."""


def write_decoder(
    folder: Path,
    name: str,
    pooling: str = "lasttoken",
    *,
    padding_side: Literal["left", "right"] = "left",
    has_padding: bool = True,
    prompts: dict[str, str] | None = None,
    seed: int = 7,
) -> Path:
    """Write a bi-encoder on a decoder of `DECODERS`, as sentence-transformers saves it.

    pooling      as that library names it
    has_padding  whether the tokenizer has a token for padding. It appends an end token, as Qwen3-Embedding's does.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    body = write_decoder_body(
        folder.parent / f"{folder.name}-body", name, padding_side=padding_side, has_padding=has_padding, seed=seed
    )
    transformer = Transformer(str(body), max_seq_length=MAX_TOKEN_COUNT)
    modules = [transformer, Pooling(_SIZES["hidden_size"], pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save_pretrained(str(folder))
    return folder


def write_decoder_body(
    folder: Path,
    name: str,
    *,
    padding_side: Literal["left", "right"] = "left",
    has_padding: bool = True,
    seed: int = 7,
) -> Path:
    """Write a decoder of `DECODERS` without a head, as transformers saves it."""
    import torch
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    model_type, settings = DECODERS[name]
    config = AutoConfig.for_model(
        model_type,
        **{**_SIZES, **settings},
        vocab_size=_VOCABULARY,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2 if has_padding else None,
    )
    AutoModel.from_config(config, dtype=torch.float32).save_pretrained(folder, safe_serialization=True)
    tokens = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": "<pad>"} if has_padding else {})
    PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(),
        padding_side=padding_side,
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
        **tokens,
    ).save_pretrained(folder)
    return folder


@cache
def _byte_level_bpe() -> Any:
    """Return a tokenizer trained on Python's language reference, which ends each text with `</s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([topics[name] for name in sorted(topics)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", 1)]
    )
    return tokenizer
