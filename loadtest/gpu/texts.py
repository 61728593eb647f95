"""Real texts to measure with."""

import json
from functools import cache
from itertools import chain, cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit import HOME, bundle_folder


def passages(count: int) -> list[str]:
    """Return this many texts of all lengths. They repeat when the parts carried fewer."""
    texts: list[str] = json.loads((HOME / "data/texts.json").read_text())
    return list(islice(cycle(texts), count))


@cache
def _tokenizer() -> Any:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(bundle_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@cache
def token_stream() -> NDArray[np.int64]:
    """Return the token ids of all texts in one row, int64 [T], without special tokens."""
    texts = json.loads((HOME / "data/texts.json").read_text())
    encoded = _tokenizer().encode_batch(texts, add_special_tokens=False)
    return np.fromiter(chain.from_iterable(one.ids for one in encoded), np.int64)


def texts_of(tokens: int, count: int) -> list[str]:
    """Return this many different texts of about this many tokens, special tokens included."""
    stream, size = token_stream().tolist(), tokens - 2
    starts = [(at * 7919) % (len(stream) - size) for at in range(count)]  # a prime: texts repeat as late as possible
    texts: list[str] = _tokenizer().decode_batch([stream[start : start + size] for start in starts])
    return texts
