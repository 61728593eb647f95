"""A tokenizer of bytes, as ByT5 has it, for the tokenizers library.

Facts: transformers has it only in Python. The id of a byte is its value plus 3, after padding, end and unknown; 125
tokens for spans follow the bytes. `tokenizers` maps bytes to printable characters, so each of these is a token of the
vocabulary, and no pair is ever merged.
"""

from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

_BYTES: Final = 256


def to_fast(tokenizer: ByT5Tokenizer) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the tokenizers library that gives the same ids."""
    vocabulary = {character: tokenizer.offset + byte for byte, character in enumerate(_printable())}
    special = {token: id_ for id_, token in tokenizer.added_tokens_decoder.items()}
    names = {str(token): id_ for token, id_ in special.items()}
    fast = Tokenizer(models.BPE(vocab={**names, **vocabulary}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(str(token), normalized=False) for token in special])
    end = str(tokenizer.eos_token)
    fast.post_processor = TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, names[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token=str(tokenizer.pad_token),
        eos_token=end,
        unk_token=str(tokenizer.unk_token),
        model_input_names=list(tokenizer.model_input_names),
    )


def _printable() -> list[str]:
    """Return the character that stands for each byte in the tokenizers library, which is that of GPT-2."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(_BYTES, 2 * _BYTES))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(_BYTES)]
