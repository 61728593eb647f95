"""Tensors whose shapes do not fit their data, sent with a token that has a quota."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from sluice.common.v1.model_pb2 import TEXT_ROLE_QUERY
from sluice.common.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.kserve.v2 import inference_service_pb2 as kserve_pb
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

from loadtest.attacks.attack import COLLECTION, Result, Step, Target
from loadtest.attacks.calls import call_all
from loadtest.attacks.verdict import Bounds

_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_EMBED: Final = "/sluice.embedding.v1.EmbeddingService/Embed"
_RETRIEVE: Final = "/sluice.retrieval.v1.RetrievalService/Retrieve"
_UPSERT: Final = "/sluice.retrieval.v1.RetrievalService/Upsert"
_TIMEOUT_S: Final = 10.0
_SHAPES: Final[tuple[tuple[int, ...], ...]] = (
    (2**62, 1), (2**63 - 1,), (2**31, 2**31), (2**62, 2), (2**62, 0), (-1, 4), (-(2**62), 1), (0,), (2**40, 384),
    (1,) * 100, (2**21,) * 3,
)  # fmt: skip


@dataclass(frozen=True)
class Tensors:
    """Impossible shapes. The token that sent them works afterwards."""

    name: ClassVar[str] = "tensors"
    seed: int = 1
    calls: int = 3

    def bounds(self, target: Target) -> Bounds:
        """Allow nothing: shapes alone must not cost memory."""
        return Bounds(growth_mb=20)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield each shape to each call that takes tensors."""
        for shape in _SHAPES:
            written = f"{list(shape[:4])}{' …' if len(shape) > 4 else ''}"
            yield Step(f"{written} to ModelInfer", partial(self._infer, target, shape))
            yield Step(f"{written} to Retrieve and Upsert", partial(self._retrieve, target, shape))

    def _infer(self, target: Target, shape: tuple[int, ...]) -> Result:
        assert target.guarded is not None
        limited = (("authorization", f"Bearer {target.quota_token}"),)
        request = kserve_pb.ModelInferRequest(model_name=target.model)
        request.inputs.add(name="text", datatype="BYTES", shape=shape)
        address = target.guarded.address
        answers = call_all(address, _INFER, [request] * self.calls, at_once=1, timeout_s=_TIMEOUT_S, metadata=limited)
        embed = embedding_pb.EmbedRequest(model=target.model, texts=["still here"], role=TEXT_ROLE_QUERY)
        after = call_all(address, _EMBED, [embed], at_once=1, timeout_s=_TIMEOUT_S, metadata=limited)
        complaints = [] if after == Counter(OK=1) else [f"the token got {', '.join(after)} afterwards"]
        return Result(answers, complaints)

    def _retrieve(self, target: Target, shape: tuple[int, ...]) -> Result:
        tensor = Tensor(data_type=DATA_TYPE_FLOAT32, shape=shape, data=b"\0" * 8)
        query = retrieval_pb.FieldQuery(dense=tensor, depth=1)
        retrieve = retrieval_pb.RetrieveRequest(collection=COLLECTION, queries=[query])
        upsert = retrieval_pb.UpsertRequest(collection=COLLECTION)
        upsert.documents.add(document_id="tensor", text="text")
        upsert.dense.add(field="dense", vectors=tensor)
        address = target.address("retrieval")
        answers = call_all(address, _RETRIEVE, [retrieve] * self.calls, at_once=1, timeout_s=_TIMEOUT_S)
        return Result(answers + call_all(address, _UPSERT, [upsert] * self.calls, at_once=1, timeout_s=_TIMEOUT_S))
