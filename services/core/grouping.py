"""Documents of a ranking put together by a value that they share."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.core.ranking import Ranking

V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True)
class Group(Generic[V]):
    """The best documents with a value, best first; None is that of a document without one, which stands alone."""

    value: V | None
    ranking: Ranking


def grouped(ranking: Ranking, values: Mapping[str, V], *, count: int, size: int) -> list[Group[V]]:
    """The best `count` groups with up to `size` documents each, in the order of the best document of each.

    values  of the documents that have one, by id
    """
    found: dict[tuple[bool, Hashable], list[tuple[str, float]]] = {}
    for id_, score in ranking.items():
        key = (True, values[id_]) if id_ in values else (False, id_)
        if key not in found and len(found) == count:
            continue
        members = found.setdefault(key, [])
        if len(members) < size:
            members.append((id_, score))
    return [Group(values.get(members[0][0]), Ranking.of(members)) for members in found.values()]
