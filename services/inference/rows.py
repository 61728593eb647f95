"""The rows of a call's texts, and the violations of texts that are too long."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from services.inference.tokenizer import Input, TooLong
from services.rpc.server.offloading import offload
from services.rpc.validation import validating

S = TypeVar("S", bound=Sequence[int])

# Cutting 10,000 ids into rows takes about as long as a switch to a thread and back.
_INLINE_IDS: Final = 10_000


async def rows_of(
    texts: Sequence[S], rows: Callable[[S], list[Input]], field: Callable[[int], str]
) -> list[list[Input]]:
    """Return the rows of each text, which is given as token ids: one row, or its windows.

    Many are made off the event loop.

        field  returns the path of a text in the request, by its position

    Raises InvalidRequest with every text that is too long, or with the overlap if windows share too much.
    """
    return await offload(lambda: _rows(texts, rows, field), size=sum(map(len, texts)), inline=_INLINE_IDS)


def _rows(texts: Sequence[S], rows: Callable[[S], list[Input]], field: Callable[[int], str]) -> list[list[Input]]:
    inputs: list[list[Input]] = []
    with validating() as violations:
        for position, ids in enumerate(texts):
            try:
                inputs.append(rows(ids))
            except TooLong as error:
                violations.add(field(position), str(error), expected_max=error.limit, given=error.given)
            except ValueError as error:
                violations.add("windows.overlap_token_count", str(error))
                break
    return inputs
