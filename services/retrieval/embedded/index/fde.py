"""Multi-vector fields with an encoding: documents' tokens as one vector each, for a coarse index. Derived."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from services.core.arrays import F32
from services.core.muvera import FixedDimensionalEncoding
from services.retrieval.domain.schema import Coarse, Encoding, Metric, Schema
from services.retrieval.embedded.index.ann import Form, Rows
from services.retrieval.embedded.index.multi_vectors import Tokens

# Random matrices of an encoding are up to some 100 MiB, and are drawn once.
_KEPT: Final = 16


@dataclass(frozen=True)
class Encoded:
    """A multi-vector field's encoding at work."""

    name: str
    encoding: FixedDimensionalEncoding

    @property
    def form(self) -> Form:
        """How the coarse index holds the encodings."""
        return Form(Coarse.I8, Metric.DOT, self.encoding.length)

    def rows(self, tokens: Tokens) -> Rows:
        """The encodings of documents, made when they are asked for."""
        documents = np.arange(len(tokens.counts), dtype=np.int64)

        def encoded(place: slice) -> F32:
            # Some at a time: tokens of thousands of documents are gigabytes.
            chunks = tokens.chunks(documents[place], query_tokens=0)
            return np.concatenate([self._encoded(tokens.take(chunk)) for chunk in chunks])

        return encoded

    def _encoded(self, tokens: Tokens) -> F32:
        return self.encoding.documents(tokens.floats.astype(np.float32), tokens.counts)


def encoded_fields(schema: Schema) -> Iterator[Encoded]:
    """The fields of a schema that have an encoding."""
    for field in schema.multi_vector:
        if field.encoding is not None:
            yield Encoded(field.name, encoding_of(field.dimensions, field.encoding))


@lru_cache(_KEPT)
def encoding_of(dimensions: int, encoding: Encoding) -> FixedDimensionalEncoding:
    """The encoding of tokens of so many dimensions."""
    return FixedDimensionalEncoding(dimensions, **encoding.model_dump())
