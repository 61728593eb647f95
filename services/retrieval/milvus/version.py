"""Which Milvus it is, and what it can do."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Version:
    """A version of Milvus, or of Milvus Lite, the library that runs in this process."""

    number: tuple[int, int]
    is_lite: bool

    def __str__(self) -> str:
        return f"{self.number[0]}.{self.number[1]}"

    @property
    def has_sparse(self) -> bool:
        """Whether it has sparse vectors, and ranks words by BM25."""
        return self.is_lite or self.number >= (2, 5)

    @property
    def has_several_vectors(self) -> bool:
        """Whether a collection may have more than one vector field."""
        return self.is_lite or self.number >= (2, 4)

    @property
    def has_membership(self) -> bool:
        """Whether `in` works inside of JSON."""
        return not self.is_lite


def parsed(text: str) -> Version:
    """The version in what Milvus says of itself: "v2.3.5-lite", "milvus_lite-3.2.2". An unknown one counts as new."""
    found = re.search(r"(\d+)\.(\d+)", text)
    number = (int(found[1]), int(found[2])) if found else (99, 0)
    return Version(number, text.startswith("milvus_lite"))
