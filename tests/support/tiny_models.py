"""Tiny checkpoints of many architectures, as data: add a line to `ARCHITECTURES` for another one.

Each checkpoint has the real architecture, random weights of a fixed seed, and a real tokenizer of the same kind as the
published models have. Parity does not depend on training. Weights are drawn wide, so that texts differ as much as those
of a trained model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tests.support.tiny_tokenizers import TokenizerKind, write_tokenizer

SIZES: Final[Mapping[str, Any]] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "initializer_range": 0.3,
}
# Encoder-decoder models have other names for the same sizes.
T5_SIZES: Final[Mapping[str, Any]] = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
_SEQ2SEQ_SIZES: Final[Mapping[str, Any]] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 130,
    "init_std": 0.3,
    "decoder_start_token_id": 2,
}
Task = Literal["bi-encoder", "cross-encoder"]


@dataclass(frozen=True)
class Architecture:
    """An architecture of transformers, and how to write a tiny checkpoint of it."""

    model_type: str
    """Name in config.json."""
    tokenizer: TokenizerKind
    tokenizer_class: str = "PreTrainedTokenizerFast"
    """Class of transformers that published models of this architecture state."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Values of config.json besides `SIZES`."""
    model_class: str = ""
    """Class of transformers to write; default: that of AutoModel."""
    name: str = ""
    """Name in the tests; default: the model type."""
    base_sizes: Mapping[str, Any] = field(default_factory=lambda: SIZES)

    def __str__(self) -> str:
        """Return the name in the tests."""
        return self.name or self.model_type


def write_model(folder: Path, architecture: Architecture, task: Task = "bi-encoder", *, seed: int = 7) -> Path:
    """Write a checkpoint as transformers writes it, without modules of sentence-transformers."""
    import torch
    import transformers

    torch.manual_seed(seed)
    tokenizer = write_tokenizer(folder, architecture.tokenizer, architecture.tokenizer_class)
    config = transformers.AutoConfig.for_model(
        architecture.model_type,
        **{
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "num_labels": 1,
            **architecture.base_sizes,
            **architecture.sizes,
        },
    )
    if task == "cross-encoder":
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    elif architecture.model_class:
        model = getattr(transformers, architecture.model_class)(config)
    else:
        model = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def _t5(
    model_type: str, model_class: str, name: str = "", tokenizer: TokenizerKind = "t5", **sizes: Any
) -> Architecture:
    tokenizer_class = "ByT5Tokenizer" if tokenizer == "bytes" else "T5TokenizerFast"
    return Architecture(model_type, tokenizer, tokenizer_class, sizes, model_class, name, base_sizes=T5_SIZES)


# Architectures for other tasks than search.
OTHER_TASKS: Final = (
    _t5("longt5", "LongT5EncoderModel"),
    Architecture("bart", "bpe", "BartTokenizerFast", base_sizes=_SEQ2SEQ_SIZES),
    Architecture("pegasus", "bpe", base_sizes=_SEQ2SEQ_SIZES),
    Architecture("gptj", "gpt2", sizes={"rotary_dim": 8}),
    Architecture("canine", "bytes", "ByT5Tokenizer"),
    Architecture("clip", "bpe"),
    Architecture("fnet", "unigram-bert"),
    Architecture("markuplm", "bpe", "RobertaTokenizerFast"),
    Architecture("vit", "wordpiece"),
)
ENCODERS: Final = (
    Architecture("bert", "wordpiece", "BertTokenizerFast"),
    Architecture("roberta", "bpe", "RobertaTokenizerFast"),
    Architecture("xlm-roberta", "unigram", "XLMRobertaTokenizerFast"),
    Architecture("camembert", "unigram", "CamembertTokenizerFast", {"initializer_range": 0.6}),
    Architecture("distilbert", "wordpiece"),
    Architecture("mpnet", "mpnet", "MPNetTokenizerFast"),
    Architecture(
        "deberta", "deberta", "DebertaTokenizerFast", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    ),
    Architecture(
        "deberta-v2",
        "unigram-bert",
        "DebertaV2TokenizerFast",
        {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    Architecture("albert", "unigram-bert", "AlbertTokenizerFast", {"embedding_size": 16, "initializer_range": 0.6}),
    Architecture("electra", "wordpiece", "ElectraTokenizerFast", {"embedding_size": 16, "initializer_range": 0.6}),
    Architecture("modernbert", "wordpiece", sizes={"global_attn_every_n_layers": 2, "local_attention": 16}),
    Architecture(
        "big_bird",
        "unigram-bert",
        "BigBirdTokenizerFast",
        {"block_size": 16, "num_random_blocks": 1, "initializer_range": 0.6},
    ),
    Architecture("longformer", "bpe", "LongformerTokenizerFast", {"attention_window": [64, 64]}),
    Architecture("nystromformer", "unigram-bert", "AlbertTokenizerFast"),
    _t5("t5", "T5EncoderModel"),
    _t5("t5", "T5EncoderModel", "t5-gated", feed_forward_proj="gated-gelu"),
    _t5("t5", "T5EncoderModel", "byt5", "bytes", feed_forward_proj="gated-gelu"),
    _t5("mt5", "MT5EncoderModel"),
    _t5("umt5", "UMT5EncoderModel"),
)
# Architectures that few published models of embeddings have. Some of them are refused.
_XLM_SIZES: Final = {"emb_dim": 32, "n_layers": 2, "n_heads": 2}
OTHERS: Final = (
    Architecture("convbert", "wordpiece"),
    Architecture("data2vec-text", "bpe", "RobertaTokenizerFast"),
    Architecture("ernie", "wordpiece"),
    Architecture("esm", "wordpiece"),
    Architecture("flaubert", "wordpiece", sizes=_XLM_SIZES),
    Architecture("ibert", "bpe", "RobertaTokenizerFast"),
    Architecture("megatron-bert", "wordpiece"),
    Architecture(
        "mobilebert",
        "wordpiece",
        sizes={"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    Architecture("rembert", "wordpiece", sizes={"input_embedding_size": 16, "output_embedding_size": 16}),
    Architecture("roberta-prelayernorm", "bpe", "RobertaTokenizerFast"),
    Architecture("roformer", "wordpiece", sizes={"initializer_range": 0.6}),
    Architecture("splinter", "wordpiece"),
    Architecture("squeezebert", "wordpiece", sizes={"embedding_size": 32}),
    Architecture("xlm", "wordpiece", sizes=_XLM_SIZES),
    Architecture("xlm-roberta-xl", "unigram", "XLMRobertaTokenizerFast"),
    Architecture("cohere", "gpt2"),
    Architecture("falcon", "gpt2"),
    Architecture("mpt", "gpt2", sizes={"d_model": 32, "n_heads": 2, "n_layers": 2}),
    Architecture("olmo", "gpt2"),
    Architecture(
        "gpt_neo", "gpt2", sizes={"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    ),
    Architecture("stablelm", "gpt2"),
    Architecture("ernie_m", "wordpiece"),
    Architecture("mamba", "gpt2"),
    Architecture("starcoder2", "gpt2"),
    Architecture("xmod", "unigram", "XLMRobertaTokenizerFast", {"languages": ["en_XX"], "default_language": "en_XX"}),
)
