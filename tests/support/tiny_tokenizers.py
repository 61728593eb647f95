"""Tokenizers of tiny checkpoints, trained on Python's language reference with the algorithms of published models."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final, Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

TokenizerKind = Literal["wordpiece", "mpnet", "bpe", "deberta", "unigram", "unigram-bert", "t5", "gpt2", "bytes"]
_VOCABULARY_SIZE: Final = 1200

Specials = dict[str, str]
"""Names that transformers gives special tokens, and the tokens, in the order of their ids."""


@dataclass(frozen=True)
class _Recipe:
    """How to train a tokenizer."""

    train: Callable[[list[str]], Tokenizer]
    """Gets the special tokens."""
    specials: Specials
    single: str
    """Template of a text."""
    pair: str
    """Template of a pair."""


_BERT: Final = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_BERT_TEMPLATES: Final = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
_ROBERTA: Final = {
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
_ROBERTA_TEMPLATES: Final = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
_ENDS: Final = {"bos_token": "<s>", "eos_token": "</s>"}


def write_tokenizer(folder: Path, kind: TokenizerKind, class_name: str) -> Any:
    """Write a tokenizer as a class of transformers saves it, and return it."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_class = getattr(transformers, class_name)
    if kind == "bytes":
        tokenizer = tokenizer_class()
    else:
        (folder / "tokenizer.json").write_text(_trained(kind), encoding="utf-8")
        specials = _RECIPES[kind].specials
        ends = _ENDS if specials.get("cls_token") == "<s>" else {}
        tokenizer = tokenizer_class(tokenizer_file=str(folder / "tokenizer.json"), **specials, **ends)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


@cache
def _trained(kind: TokenizerKind) -> str:
    """Return tokenizer.json of a kind."""
    recipe = _RECIPES[kind]
    specials = list(recipe.specials.values())
    tokenizer = recipe.train(specials)
    tokenizer.post_processor = TemplateProcessing(
        single=recipe.single,
        pair=recipe.pair,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in specials],
    )
    return str(tokenizer.to_str())


def _fit(tokenizer: Tokenizer, trainer_class: Any, specials: list[str], **options: Any) -> Tokenizer:
    trainer = trainer_class(vocab_size=_VOCABULARY_SIZE, special_tokens=specials, show_progress=False, **options)
    texts = [text for name in sorted(topics) for text in topics[name].split("\n\n")]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wordpiece(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _fit(tokenizer, trainers.WordPieceTrainer, specials)


def _byte_level(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fit(tokenizer, trainers.BpeTrainer, specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def _unigram(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    unknown = next(token for token in specials if token in {"<unk>", "[UNK]"})
    return _fit(tokenizer, trainers.UnigramTrainer, specials, unk_token=unknown)


_RECIPES: Final[dict[TokenizerKind, _Recipe]] = {
    "wordpiece": _Recipe(_wordpiece, _BERT, *_BERT_TEMPLATES),
    "mpnet": _Recipe(_wordpiece, {**_ROBERTA, "unk_token": "[UNK]"}, *_ROBERTA_TEMPLATES),
    "bpe": _Recipe(_byte_level, _ROBERTA, *_ROBERTA_TEMPLATES),
    "deberta": _Recipe(_byte_level, _BERT, *_BERT_TEMPLATES),
    "unigram": _Recipe(_unigram, _ROBERTA, *_ROBERTA_TEMPLATES),
    "unigram-bert": _Recipe(_unigram, _BERT, *_BERT_TEMPLATES),
    "t5": _Recipe(
        _unigram, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, "$A </s>", "$A </s> $B </s>"
    ),
    "gpt2": _Recipe(_byte_level, {"eos_token": "<|endoftext|>"}, "$A", "$A $B"),
}
