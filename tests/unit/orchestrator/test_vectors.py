import numpy as np
import pytest
from sluice.common.v1.model_pb2 import ModelRef
from sluice.common.v1.tensor_pb2 import MultiVectors, SparseVectors, Tensor
from sluice.errors import BackendFailed

from services.orchestrator.downstream.vectors import EmbeddingBatch, Kind, dense_rows, multi_vector_rows, sparse_rows
from services.rpc.tensor import to_tensor

DENSE = np.arange(6, dtype=np.float32).reshape(3, 2)
INDICES = np.array([1, 5, 2], dtype=np.int32)
WEIGHTS = np.array([0.5, 0.25, 4.0], dtype=np.float32)
SPARSE = SparseVectors(indices=to_tensor(INDICES), weights=to_tensor(WEIGHTS), term_counts=[2, 0, 1])
TOKENS = np.arange(10, dtype=np.float32).reshape(5, 2)
MULTI = MultiVectors(tokens=to_tensor(TOKENS), token_counts=[1, 3, 1])


def embedded(
    kind: Kind, *, texts: int = 3, dense: Tensor | None = None, sparse: SparseVectors = SPARSE
) -> EmbeddingBatch:
    vectors = to_tensor(DENSE) if dense is None else dense
    return EmbeddingBatch(texts, (kind,), ModelRef(name="m"), vectors, sparse, MULTI)


def test_dense_vectors_are_cut_by_text() -> None:
    assert dense_rows(embedded("dense").dense) == [to_tensor(row) for row in DENSE]


def test_terms_are_cut_by_text() -> None:
    rows = sparse_rows(embedded("sparse").sparse)
    assert [list(row.term_counts) for row in rows] == [[2], [0], [1]]
    assert [row.indices for row in rows] == [to_tensor(INDICES[:2]), to_tensor(INDICES[2:2]), to_tensor(INDICES[2:])]
    assert [row.weights for row in rows] == [to_tensor(WEIGHTS[:2]), to_tensor(WEIGHTS[2:2]), to_tensor(WEIGHTS[2:])]


def test_token_vectors_are_cut_by_text() -> None:
    assert multi_vector_rows(MULTI) == [to_tensor(TOKENS[:1]), to_tensor(TOKENS[1:4]), to_tensor(TOKENS[4:])]


@pytest.mark.parametrize(
    "dense",
    [
        Tensor(),
        to_tensor(DENSE[:2]),
        to_tensor(DENSE.reshape(6)),
        to_tensor(DENSE.astype(np.float16)),
        Tensor(data_type=to_tensor(DENSE).data_type, shape=[3, 2], data=b"short"),
    ],
)
def test_dense_vectors_of_another_shape_are_rejected(dense: Tensor) -> None:
    with pytest.raises(BackendFailed, match="expected dense vectors of 3 texts"):
        embedded("dense", dense=dense)


@pytest.mark.parametrize("counts", [[2, 1], [2, 0, 2], [3, 0, 1]])
def test_terms_of_another_shape_are_rejected(counts: list[int]) -> None:
    sparse = SparseVectors(indices=to_tensor(INDICES), weights=to_tensor(WEIGHTS), term_counts=counts)
    with pytest.raises(BackendFailed, match="expected sparse vectors of 3 texts"):
        embedded("sparse", sparse=sparse)


def test_token_vectors_of_other_texts_are_rejected() -> None:
    with pytest.raises(BackendFailed, match="expected multi_vector vectors of 4 texts"):
        embedded("multi_vector", texts=4)


def test_kinds_that_were_not_requested_may_be_missing() -> None:
    assert embedded("sparse", dense=Tensor()).kinds == ("sparse",)
