"""Versions of Milvus and the features that they have."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class MilvusVersion:
    """A version of Milvus, or of Milvus Lite, which runs in this process."""

    number: tuple[int, int]
    is_lite: bool

    def __str__(self) -> str:
        return f"{self.number[0]}.{self.number[1]}"

    @property
    def has_sparse(self) -> bool:
        """Whether sparse vectors and BM25 are supported."""
        return self.is_lite or self.number >= (2, 5)

    @property
    def has_several_vectors(self) -> bool:
        """Whether a collection can have several vector fields."""
        return self.is_lite or self.number >= (2, 4)

    @property
    def has_membership(self) -> bool:
        """Whether `in` works inside JSON."""
        return not self.is_lite


def parse_version(text: str) -> MilvusVersion:
    """Parse a version such as "v2.3.5-lite" or "milvus_lite-3.2.2". An unknown format counts as the newest version."""
    found = re.search(r"(\d+)\.(\d+)", text)
    number = (int(found[1]), int(found[2])) if found else (99, 0)
    return MilvusVersion(number, text.startswith("milvus_lite"))
