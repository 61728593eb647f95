"""Calls that look at tokens: their limits, and the place of a token in a text's bytes."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.model.loading import Model
from services.rpc.validation import Violations

# Most bytes of text, or ids, of one call: its answer then stays below half of the largest message.
MOST: Final = 262_144


def check_texts(texts: Sequence[str], violations: Violations, *, field: str) -> None:
    """Note it when texts are too long together to be told token by token."""
    size = sum(len(text.encode()) for text in texts)
    if size > MOST:
        description = f"expected at most {MOST:,} bytes of UTF-8 together, got {size:,}"
        violations.add(field, description, expected_max=MOST, given=size)


def check_ids(ids: Sequence[int], model: Model, violations: Violations, *, field: str) -> None:
    """Note the first id that the model's vocabulary does not have."""
    size = model.tokenizer.vocabulary_size
    for position, number in enumerate(ids):
        if not 0 <= number < size:
            description = f"expected ids of 0 to {size - 1:,}, which {model.name} has, got {number}"
            violations.add(f"{field}[{position}]", description, expected_max=size - 1, given=number)
            return


def byte_positions(text: str) -> NDArray[np.int64]:
    """The byte at which each character begins in UTF-8, and the length of all: [len(text) + 1], rising."""
    if text.isascii():
        return np.arange(len(text) + 1)
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate(([0], np.cumsum(sizes)))
