"""Search of a multi-vector field: MaxSim of the query's tokens with those of each matching document.

In a segment of a field with an encoding, only the best candidates by encoding are compared.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from services.core.arrays import I64, Bool
from services.core.selection import at_least_kth
from services.retrieval.domain.queries import MultiVectorQuery
from services.retrieval.embedded.index.fde import encoding_of
from services.retrieval.embedded.index.multi_vectors import MultiVectors
from services.retrieval.embedded.index.planner import encodings_to_fetch, plan
from services.retrieval.embedded.index.view import View
from services.retrieval.embedded.search.scoring import ScoredChunk


def score_in_chunks(query: MultiVectorQuery, view: View, masks: Sequence[Bool]) -> Iterator[ScoredChunk]:
    """Yield chunks of documents whose token vectors fit into a fixed amount of memory."""
    for part, mask in zip(view.parts, masks, strict=True):
        vectors = part.block.multi_vectors[query.field.name]
        has_tokens = vectors.counts > 0
        without = np.flatnonzero(mask & ~has_tokens)
        yield ScoredChunk(part, without[:0], np.empty(0, dtype=np.float32), len(without))
        matching = mask & has_tokens
        positions = _candidates(query, vectors, matching)
        skipped = int(np.count_nonzero(matching)) - len(positions)
        for chunk in vectors.split(positions, len(query.tokens)):
            scores = vectors.scores(query.tokens, chunk)
            best = at_least_kth(scores, query.depth)
            # The last chunk also covers the documents that the encoding excluded.
            is_last = len(chunk) and chunk[-1] == positions[-1]
            yield ScoredChunk(part, chunk[best], scores[best], len(chunk) + (skipped if is_last else 0))


def _candidates(query: MultiVectorQuery, vectors: MultiVectors, mask: Bool) -> I64:
    """Return the positions to compare, in ascending order: all that match, or the best ones by encoding."""
    matching = int(np.count_nonzero(mask))
    field = query.field
    fetch = encodings_to_fetch(query.depth, query.oversampling)
    if vectors.ann is None or field.encoding is None or query.is_exact or matching <= fetch:
        return np.flatnonzero(mask)
    encoding = encoding_of(field.dimensions, field.encoding)
    chosen = plan(total=len(mask), matching=matching, fetch=fetch, has_graph=vectors.ann.has_graph)
    encoded = encoding.query(query.tokens)[None]
    return vectors.ann.search(encoded, None if matching == len(mask) else mask, chosen)[0]
