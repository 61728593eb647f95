"""Words that were never used before: long ones in documents and queries, more of them, then many short ones."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from sluice.search.v1 import search_service_pb2 as pb

from loadtest.attacks.attack import COLLECTION, Result, Step, Target
from loadtest.attacks.calls import call_all
from loadtest.attacks.system import SEARCH, document, index
from loadtest.attacks.verdict import Bounds

_DELETE: Final = "/sluice.search.v1.SearchService/Delete"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_MAX_TEXT_BYTES: Final = 60_000
_MAX_QUERY_BYTES: Final = 8_000
_QUERIES_OF_A_CALL: Final = 8
_DOCUMENTS_OF_A_CALL: Final = 256
_FIRST_DOCUMENT: Final = 1_000


@dataclass(frozen=True)
class Words:
    """Distinct words. What is kept of them must not grow with their number or length."""

    name: ClassVar[str] = "words"
    seed: int = 1
    long_words: int = 3_000
    length: int = 8_000
    """Letters of a long word."""
    short_words: int = 200_000
    at_once: int = 4

    def bounds(self, target: Target) -> Bounds:
        """For all steps together, because growth counts from before the first. The cache of vectors may fill."""
        return Bounds(growth_mb=20, growing=("retrieval",))

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield each kind of words; the documents are deleted after their step.

        Documents and queries take memory whatever their words are, so each step is compared with the same amount of
        text that has one word only.
        """
        yield Step("the same word in documents", partial(self._index, target, "", self.long_words), is_warm_up=True)
        for name, count, length, step in (
            ("a", self.long_words, self.length, "long words in queries"),
            ("b", 3 * self.long_words, self.length, "3 times more"),
            ("c", self.short_words, 7, "short words in queries"),
        ):
            ordinary = partial(self._search, target, "", count, length)
            yield Step(step, partial(self._search, target, name, count, length), ordinary=ordinary)
        for name, count, step in (
            ("d", self.long_words, "long words in documents"),
            ("e", 3 * self.long_words, "3 times more"),
        ):
            yield Step(
                step, partial(self._index, target, name, count), ordinary=partial(self._index, target, "", count)
            )

    def _words(self, name: str, count: int, length: int) -> Iterator[str]:
        """Words that differ in their first letters, since what is cut is the end; without a name, one word."""
        chance = random.Random(f"{self.seed} {name}")  # noqa: S311
        if not name:
            yield from ["words" * (length // 5) + "s" * (length % 5)] * count
            return
        for number in range(count):
            beginning = "".join(chance.choices(_LETTERS, k=7 - len(name))) + name + _written(number)
            yield (beginning + "x" * length)[: max(length, len(beginning))]

    def _search(self, target: Target, name: str, count: int, length: int) -> Result:
        queries = list(_texts(self._words(name, count, length), _MAX_QUERY_BYTES))
        requests = [
            pb.SearchRequest(
                collection=COLLECTION,
                query=queries[start],
                more_queries=queries[start + 1 : start + _QUERIES_OF_A_CALL],
                pipeline="fast",
            )
            for start in range(0, len(queries), _QUERIES_OF_A_CALL)
        ]
        address = target.address("orchestrator")
        answers = call_all(address, SEARCH, requests, at_once=self.at_once, timeout_s=20, metadata=target.authorization)
        return Result(answers)

    def _index(self, target: Target, name: str, count: int) -> Result:
        texts = _texts(self._words(name, count, self.length), _MAX_TEXT_BYTES)
        documents = [document(_FIRST_DOCUMENT + number, text) for number, text in enumerate(texts)]
        answers: Counter[str] = Counter()
        for start in range(0, len(documents), _DOCUMENTS_OF_A_CALL):
            part = documents[start : start + _DOCUMENTS_OF_A_CALL]
            index(target, part)
            request = pb.DeleteRequest(collection=COLLECTION, document_ids=[one.document_id for one in part])
            address = target.address("orchestrator")
            answers += call_all(address, _DELETE, [request], at_once=1, timeout_s=20, metadata=target.authorization)
        return Result(answers)


def _texts(words: Iterator[str], most_bytes: int) -> Iterator[str]:
    """Words, put together into texts that are not too long."""
    parts: list[str] = []
    size = 0
    for word in words:
        if parts and size + len(word) > most_bytes:
            yield " ".join(parts)
            parts, size = [], 0
        parts.append(word)
        size += len(word) + 1
    if parts:
        yield " ".join(parts)


def _written(number: int) -> str:
    """Return a number in letters, so that words consist of letters and no two are equal."""
    digits: list[str] = []
    while number or not digits:
        number, digit = divmod(number, len(_LETTERS))
        digits.append(_LETTERS[digit])
    return "".join(digits)
