"""Splitting texts into tokens and joining tokens into texts: limits, and work off the event loop."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.inference.loader import INLINE_CHARACTERS, Model
from services.inference.tokenizer import Token
from services.rpc.server.offloading import offload
from services.rpc.validation import Violations

T = TypeVar("T")

# Most bytes of text, or ids, of one call, so that its response stays below half of the largest message.
MAX_INPUT: Final = 262_144


def check_texts(texts: Sequence[str], violations: Violations, *, field: str) -> None:
    """Add a violation if texts are too long together to be split into tokens."""
    size = sum(len(text.encode()) for text in texts)
    if size > MAX_INPUT:
        description = f"expected at most {MAX_INPUT:,} bytes of UTF-8 together, got {size:,}"
        violations.add(field, description, expected_max=MAX_INPUT, given=size)


def check_ids(ids: Sequence[int], model: Model, violations: Violations, *, field: str) -> None:
    """Add a violation for the first id that the model's vocabulary does not have. Ids are unsigned in the protos."""
    size = model.tokenizer.vocabulary_size
    if max(ids, default=0) < size:
        return
    position, number = next((at, number) for at, number in enumerate(ids) if number >= size)
    description = f"expected ids of 0 to {size - 1:,}, which {model.name} has, got {number}"
    violations.add(f"{field}[{position}]", description, expected_max=size - 1, given=number)


async def split(
    model: Model, texts: Sequence[str], *, special: bool, convert: Callable[[str, Sequence[Token]], T]
) -> list[T]:
    """Return `convert` of each text and its tokens. Long texts are split off the event loop."""

    def work() -> list[T]:
        return list(map(convert, texts, model.tokenizer.split(texts, special=special)))

    return await offload(work, size=sum(map(len, texts)), inline=INLINE_CHARACTERS)


async def join(model: Model, sequences: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
    """Return the text of each sequence of tokens. Long ones are joined off the event loop."""

    def work() -> list[str]:
        return model.tokenizer.join(sequences, skip_special=skip_special)

    return await offload(work, size=sum(map(len, sequences)), inline=INLINE_CHARACTERS)


def byte_positions(text: str) -> NDArray[np.int64]:
    """Return the byte position of each character in UTF-8, and the length of the text: [len(text) + 1], ascending."""
    if text.isascii():
        return np.arange(len(text) + 1)
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate(([0], np.cumsum(sizes)))
