"""Filters as large, deep and wide as the limits allow, over few documents."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from sluice.common.v1.filter_pb2 import Comparison, Filter
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.search.v1 import search_service_pb2 as pb

from loadtest.attacks.attack import COLLECTION, NUMBER, TAGS, WORD, Result, Step, Target
from loadtest.attacks.calls import call_all, repeated
from loadtest.attacks.system import SEARCH
from loadtest.attacks.verdict import Bounds

_COUNT: Final = "/sluice.retrieval.v1.RetrievalService/CountDocuments"
_DELETE: Final = "/sluice.search.v1.SearchService/Delete"
_VALUES_OF_A_MEMBERSHIP: Final = 1024
_FILTERS_OF_A_LIST: Final = 256
_DEPTH: Final = 31


@dataclass(frozen=True)
class Filters:
    """The same filter by several callers at once."""

    name: ClassVar[str] = "filters"
    seed: int = 1
    values: int = 1_000_000
    at_once: int = 8
    deadline_s: int = 20
    long_value: int = 8_000
    """Bytes of a long string value."""

    def bounds(self, target: Target) -> Bounds:
        """Allow little: a filter's cost is bounded by its size, which is limited."""
        return Bounds(growth_mb=100)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield each kind of filter to a search, and the largest to the other calls that take filters."""
        makers: Mapping[str, Callable[[], Filter]] = {
            "values": lambda: _memberships(self.values, self._number),
            "string values": lambda: _memberships(self.values // 2, self._word),
            "long values": lambda: _memberships(14_000_000 // self.long_value, self._long),
            "wide": self._wide,
            "deep": self._deep,
            "contains": self._contains,
        }
        for name, make in makers.items():
            found = make()
            yield Step(f"{name} to Search", partial(self._search, target, found))
            yield Step(f"{name} to CountDocuments", partial(self._count, target, found))
        yield Step("values to Delete", partial(self._delete, target, _memberships(self.values, self._number)))

    def _number(self, found: Filter, chance: random.Random) -> None:
        found.membership.field = NUMBER
        for _ in range(_VALUES_OF_A_MEMBERSHIP):
            found.membership.values.add().number_value = chance.random() + 1000

    def _word(self, found: Filter, chance: random.Random) -> None:
        found.membership.field = WORD
        for _ in range(_VALUES_OF_A_MEMBERSHIP):
            found.membership.values.add().string_value = f"{chance.randrange(10**9):x}"

    def _long(self, found: Filter, chance: random.Random) -> None:
        found.membership.field = WORD
        for _ in range(_VALUES_OF_A_MEMBERSHIP):
            found.membership.values.add().string_value = f"{chance.randrange(10**9):x}" + "x" * self.long_value

    def _wide(self) -> Filter:
        """Return lists of the largest size in a list of the largest size."""
        chance = random.Random(self.seed)  # noqa: S311
        whole = Filter()
        for _ in range(_FILTERS_OF_A_LIST):
            inner = whole.any_of.filters.add()
            for _ in range(_FILTERS_OF_A_LIST):
                one = inner.all_of.filters.add().comparison
                one.field, one.operator = NUMBER, Comparison.OPERATOR_GREATER_OR_EQUAL
                one.value.number_value = -chance.random()
        return whole

    def _deep(self) -> Filter:
        """Return branches of the largest depth, as many as a list may have, twice."""
        whole = Filter()
        for _ in range(_FILTERS_OF_A_LIST):
            one = whole.any_of.filters.add()
            for _ in range(_DEPTH - 2):
                one = one.none_of.filters.add()
                one.none_of.filters.add().exists = TAGS
            one.exists = NUMBER
        return whole

    def _contains(self) -> Filter:
        whole = Filter()
        for outer in range(_FILTERS_OF_A_LIST):
            inner = whole.any_of.filters.add()
            for number in range(_FILTERS_OF_A_LIST):
                one = inner.any_of.filters.add().contains
                one.field, one.value.string_value = TAGS, f"none {outer} {number}"
        return whole

    def _search(self, target: Target, found: Filter) -> Result:
        request = pb.SearchRequest(collection=COLLECTION, query="anything", pipeline="fast", filter=found)
        return Result(self._call(target, "orchestrator", SEARCH, request))

    def _count(self, target: Target, found: Filter) -> Result:
        request = retrieval_pb.CountDocumentsRequest(collection=COLLECTION, filter=found)
        return Result(self._call(target, "retrieval", _COUNT, request))

    def _delete(self, target: Target, found: Filter) -> Result:
        return Result(
            self._call(target, "orchestrator", _DELETE, pb.DeleteRequest(collection=COLLECTION, filter=found))
        )

    def _call(
        self,
        target: Target,
        server: str,
        method: str,
        request: pb.SearchRequest | pb.DeleteRequest | retrieval_pb.CountDocumentsRequest,
    ) -> Counter[str]:
        return call_all(
            target.address(server), method, repeated(request, self.at_once), at_once=self.at_once,
            timeout_s=self.deadline_s, metadata=target.authorization,
        )  # fmt: skip


def _memberships(values: int, add: Callable[[Filter, random.Random], None]) -> Filter:
    """So many values in memberships of the largest size, in lists of the largest size."""
    chance = random.Random(values)  # noqa: S311
    whole = Filter()
    count = max(1, values // _VALUES_OF_A_MEMBERSHIP)
    inner = whole.any_of.filters.add()
    for number in range(count):
        if number and number % _FILTERS_OF_A_LIST == 0:
            inner = whole.any_of.filters.add()
        add(inner.any_of.filters.add(), chance)
    return whole
