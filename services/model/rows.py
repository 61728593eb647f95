"""The rows of a call's texts, and what is wrong with them."""

from collections.abc import Callable, Sequence

from services.model.tokenizer import Input, TooLong
from services.rpc.validation import validating


def rows_of(
    texts: Sequence[Sequence[int]], rows: Callable[[Sequence[int]], list[Input]], field: Callable[[int], str]
) -> list[list[Input]]:
    """The rows of each text, given as token ids: one, or its windows.

    field  path of a text in the request, by its position
    Raises InvalidRequest naming every text that is too long, or the overlap when windows share too much.
    """
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
