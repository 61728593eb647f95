"""Fixed dimensional encodings (FDE) of multi-vector fields: one vector per document, for an approximate index.

Rule: encodings are derived data and are not stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from services.core.arrays import F32
from services.core.muvera import FixedDimensionalEncoding
from services.retrieval.domain.schema import CoarseType, FdeParameters, Metric, Schema
from services.retrieval.domain.vectors import TokenVectors
from services.retrieval.embedded.index.ann import VectorFormat, VectorSlices
from services.retrieval.embedded.index.multi_vectors import MultiVectors

# The random matrices of an encoding take up to about 100 MiB and are drawn once.
_CACHED_ENCODINGS: Final = 16


@dataclass(frozen=True)
class FdeField:
    """A multi-vector field with an encoding."""

    name: str
    encoding: FixedDimensionalEncoding

    @property
    def format(self) -> VectorFormat:
        """Format of the encodings in the approximate index."""
        return VectorFormat(CoarseType.I8, Metric.DOT, self.encoding.length)

    def encodings(self, vectors: MultiVectors) -> VectorSlices:
        """Return a function that encodes a slice of the documents on demand."""
        documents = np.arange(len(vectors.counts), dtype=np.int64)

        def encode(chosen: slice) -> F32:
            # In chunks: the tokens of thousands of documents are gigabytes.
            chunks = vectors.split(documents[chosen], query_tokens=0)
            return np.concatenate([self._encode(vectors.tokens.take(chunk)) for chunk in chunks])

        return encode

    def _encode(self, tokens: TokenVectors) -> F32:
        return self.encoding.documents(tokens.floats.astype(np.float32), tokens.counts)


def fde_fields(schema: Schema) -> Iterator[FdeField]:
    """Yield the fields of a schema that have an encoding."""
    for field in schema.multi_vector:
        if field.encoding is not None:
            yield FdeField(field.name, encoding_of(field.dimensions, field.encoding))


@lru_cache(_CACHED_ENCODINGS)
def encoding_of(dimensions: int, parameters: FdeParameters) -> FixedDimensionalEncoding:
    """Return the encoding of token vectors with this many dimensions."""
    return FixedDimensionalEncoding(dimensions, **parameters.model_dump())
