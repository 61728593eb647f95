"""Grouping of a ranking by a value of its documents."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.core.ranking import Ranking

V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True)
class Group(Generic[V]):
    """The best documents with the same value, best first. A document without a value forms a group of its own."""

    value: V | None
    ranking: Ranking


def group_by_value(ranking: Ranking, values: Mapping[str, V], *, count: int, size: int) -> list[Group[V]]:
    """Return the best `count` groups with up to `size` documents each, ordered by the best document of each group.

    values  by id, for documents that have a value
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
