"""Where a prompt is cut into parts that are tokenized on their own.

Parts must have the tokens of the whole text. A token may span a text and the literal beside it: byte-level BPE puts the
space before a word into its token, and a newline into that of the punctuation before it. So that part of the literal is
tokenized with the text. How much it is depends on the tokenizer, and is found by trial with odd texts.
"""

import re
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Final

from export.errors import ExportError
from export.prompt.template import COUNT, DOCUMENT, IDENTIFIER, QUERY, Template
from services.inference.bundle import Prompt, Slot
from services.inference.prompt import PromptRows
from services.inference.tokenizer import Tokenizer

# Texts whose ends merge with their neighbors in one tokenizer or another.
_ODD: Final = (
    "what is it?", "a", "7", " a", "a ", "a  ", "?", "a?!", "\na", "a\n", "a.\n\n", "'s", "It's", "é", "e\u0301",
    "\u0301", "日本", "🙂", "<b>", "[A]", ":", "\ta\t", "  a", "-", "http://x.y/", "a\r\n", "\u00a0a", "ﬁ", "A",
)  # fmt: skip
# A newline is a token of its own in tokenizers that add a space to the start of a text.
_ANCHORS: Final = ("", "\n")
_MOST_CHARACTERS: Final = 12
# No row of the trial is truncated.
_LONGEST: Final = 2**20


def cut(template: Template, tokenizer: Tokenizer, identifiers: tuple[str, ...]) -> Prompt:
    """Return the prompt in parts that have the tokens of the whole text. Raises ExportError if there are none."""
    for anchor in _ANCHORS:
        trial = _Trial(tokenizer, anchor)
        prompt = trial.prompt(template, identifiers)
        if prompt and _is_exact(prompt, template, tokenizer):
            return prompt
    raise ExportError(
        "expected a tokenizer that reads a query and a document in the prompt as it reads the whole prompt, found one "
        "whose tokens span them and the text beside them: change the ends of the template beside {query} and {document}"
    )


def _is_exact(prompt: Prompt, template: Template, tokenizer: Tokenizer) -> bool:
    """Return whether the rows of odd texts equal the tokens of the whole prompts."""
    rows = PromptRows(prompt, tokenizer, max_token_count=_LONGEST)
    for query, document in product(_ODD, _ODD):
        documents = (document, "b", query, document)[: min(rows.most_documents, 4)]
        ids = tokenizer.tokenize(rows.texts(query, documents))
        [whole] = tokenizer.tokenize([template.fill(query, documents)])
        if rows.row(*rows.split(ids), "refuse").row.ids != tuple(whole):
            return False
    return True


class _Trial:
    """Finds the cuts for one tokenizer and anchor."""

    def __init__(self, tokenizer: Tokenizer, anchor: str) -> None:
        self._tokenizer = tokenizer
        self._anchor = anchor

    def prompt(self, template: Template, identifiers: tuple[str, ...]) -> Prompt | None:
        """Return the prompt in parts; None if there are no cuts."""
        head, document, tail = template.head, template.document, template.tail
        second = template.document if identifiers else ""
        whole = "".join((head, document, second, tail)).replace(COUNT, "2").replace(IDENTIFIER, "B")
        literals = re.split(f"{re.escape(QUERY)}|{re.escape(DOCUMENT)}", whole)
        lefts, rights = list(map(self._left, literals[:-1])), list(map(self._right, literals[1:]))
        if None in lefts or None in rights:
            return None
        slots = list(zip(lefts, rights, strict=True))
        in_head = head.count(QUERY)
        after = in_head + (2 if second else 1)
        # The literals before the first document and before the others differ; both must fit.
        longest = tuple(max(counts) for counts in zip(*slots[in_head:after], strict=True))
        return Prompt(
            head=_parts(head, QUERY, slots[:in_head]),
            document=_parts(document, DOCUMENT, [longest]),
            tail=_parts(tail, QUERY, slots[after:]),
            anchor=self._anchor,
            identifiers=identifiers,
        )

    def _left(self, literal: str) -> int | None:
        """Return how many characters before a text are tokenized with it; None if no number is enough."""
        for count in range(min(len(literal), _MOST_CHARACTERS) + 1):
            first, rest = literal[: len(literal) - count], literal[len(literal) - count :]
            if all(self._ids(literal + odd) == self._ids(first) + self._ids(rest + odd) for odd in _ODD):
                return count
        return None

    def _right(self, literal: str) -> int | None:
        """Return how many characters after a text are tokenized with it; None if no number is enough."""
        for count in range(min(len(literal), _MOST_CHARACTERS) + 1):
            first, rest = literal[:count], literal[count:]
            if all(self._ids(odd + literal) == self._ids(odd + first) + self._ids(rest) for odd in _ODD):
                return count
        return None

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of a prompt."""
        anchor, whole = self._tokenizer.tokenize([self._anchor, self._anchor + text])
        return whole[len(anchor) :].tolist()


def _parts(text: str, field: str, slots: Sequence[tuple[int | None, ...]]) -> tuple[str | Slot, ...]:
    """Return the parts of a text around a field, given the characters beside each that are tokenized with it."""
    literals = text.split(field)
    parts: list[str | Slot] = []
    begin = 0
    for (before, after), (left, right) in zip(pairwise(literals), slots, strict=True):
        end = len(before) - (left or 0)
        parts += [before[begin:end], Slot(before=before[end:], after=after[:right])]
        begin = right or 0
    return tuple(part for part in (*parts, literals[-1][begin:]) if part != "")
