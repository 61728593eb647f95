"""Collections: valid names, records, and statistics."""

import re
from dataclasses import dataclass
from typing import Final

from services.retrieval.domain.schema import Schema

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,127}")
"""Valid names of collections and aliases."""


@dataclass(frozen=True)
class CollectionRecord:
    """The stored facts about a collection. `key` is its number and is never reused."""

    key: int
    name: str
    schema: Schema
    created_us: int
    version: int


@dataclass(frozen=True)
class CollectionStatistics:
    """Sizes of a collection in memory and on disk."""

    indexed_count: int
    dead_count: int
    part_count: int
    segment_count: int
    memory_bytes: int
    """An estimate. Arrays that are mapped from files are not included."""
    segment_bytes: int
    store_bytes: int
    """An estimate from a sample of documents."""
