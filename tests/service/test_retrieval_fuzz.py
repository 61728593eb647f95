"""Random requests, made from edge values by the shape of the messages: none is a defect, and the server goes on."""

import math
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from sluice.common.v1 import tensor_pb2 as tns
from sluice.errors import BackendFailed, SluiceError, from_rpc_error
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.rpc.tensor import to_tensor
from tests.support.retrieval import Stub, document, in_server

REQUESTS = 2500
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["RetrievalService"].methods]

STRINGS = [
    "",
    "a",
    "b",
    "books",
    "dense",
    "words",
    "terms",
    "tokens",
    "year",
    "tags",
    "é",
    "\0",
    " ",
    "𝄞" * 300,
    "x" * 600,
]
INTEGERS = [-(2**31), -1, 0, 1, 2, 3, 4, 1000, 1001, 2**31 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, math.nan, math.inf, 1e-40, 3e38, 0.5]
TENSORS: list[Any] = [
    np.zeros((0, 4), np.float32),
    np.ones(4, np.float32),
    np.ones((1, 4), np.float32),
    np.full((2, 4), 3e38, np.float32),
    np.ones((2, 3), np.float16),
    np.full(4, 1e-40, np.float32),
    np.array([1, 2], np.int32),
    np.array([1.0, 2.0], np.float32),
    np.array(5, np.float32),
]
F = FieldDescriptor


def made(cls: type[Message], rng: random.Random, depth: int = 0) -> Message:
    """A random message of the class."""
    if cls is tns.Tensor and rng.random() < 0.8:
        return to_tensor(rng.choice(TENSORS))
    message = cls()
    for field in cls.DESCRIPTOR.fields:
        if depth > 6 or rng.random() < 0.35:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(rng.randrange(3)):
                held = getattr(message, field.name)[rng.choice(STRINGS)]
                held.CopyFrom(made(type(held), rng, depth + 1))
        elif field.is_repeated:
            getattr(message, field.name).extend(value(field, rng, depth) for _ in range(rng.randrange(4)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value(field, rng, depth))
        else:
            setattr(message, field.name, value(field, rng, depth))
    return message


def value(field: FieldDescriptor, rng: random.Random, depth: int) -> Any:
    if field.message_type is not None:
        return made(field.message_type._concrete_class, rng, depth + 1)
    if field.type == F.TYPE_BYTES:
        return rng.randbytes(rng.randrange(20))
    if field.enum_type is not None:
        return rng.choice([0, 1, 2, 3, 99])
    makers: dict[int, Callable[[], Any]] = {
        F.CPPTYPE_STRING: lambda: (
            rng.randbytes(rng.randrange(20)) if field.type == F.TYPE_BYTES else rng.choice(STRINGS)
        ),
        F.CPPTYPE_INT32: lambda: rng.choice(INTEGERS),
        F.CPPTYPE_INT64: lambda: rng.choice(INTEGERS),
        F.CPPTYPE_UINT32: lambda: abs(rng.choice(INTEGERS)),
        F.CPPTYPE_UINT64: lambda: abs(rng.choice(INTEGERS)),
        F.CPPTYPE_DOUBLE: lambda: rng.choice(FLOATS),
        F.CPPTYPE_FLOAT: lambda: rng.choice(FLOATS),
        F.CPPTYPE_BOOL: lambda: rng.random() < 0.5,
    }
    return makers[field.cpp_type]()


def collection() -> pb.CreateCollectionRequest:
    schema = pb.Schema(
        dense_fields=[pb.DenseField(name="dense", dimensions=4)],
        text_fields=[pb.TextField(name="words")],
        sparse_fields=[pb.SparseField(name="terms")],
        multi_vector_fields=[pb.MultiVectorField(name="tokens", dimensions=4)],
        metadata_fields=[
            pb.MetadataField(name="year", type=pb.METADATA_TYPE_NUMBER),
            pb.MetadataField(name="tags", type=pb.METADATA_TYPE_LIST),
        ],
    )
    return pb.CreateCollectionRequest(name="books", schema=schema)


def good_upsert(rng: random.Random) -> pb.UpsertRequest:
    """Something to find: one document whose parts random requests replace."""
    terms = tns.SparseVectors(
        indices=to_tensor(np.array([1, 2], np.int32)), weights=to_tensor(np.ones(2, np.float32)), term_counts=[2]
    )
    tokens = tns.MultiVectors(tokens=to_tensor(np.ones((1, 4), np.float32)), token_counts=[1])
    return pb.UpsertRequest(
        collection="books",
        documents=[document(rng.choice("abcdef"), rng.choice(STRINGS), year=1, tags=["x"])],
        dense=[pb.DenseColumn(field="dense", vectors=to_tensor(np.ones((1, 4), np.float32)))],
        sparse=[pb.SparseColumn(field="terms", vectors=terms)],
        multi_vectors=[pb.MultiVectorColumn(field="tokens", vectors=tokens)],
    )


def request_for(method: str, rng: random.Random) -> Any:
    request: Any = made(getattr(pb, f"{method}Request"), rng)
    if "collection" in request.DESCRIPTOR.fields_by_name and rng.random() < 0.9:
        request.collection = "books"
    if method == "Upsert" and rng.random() < 0.5:
        good = good_upsert(rng)
        for field in rng.sample(["documents", "dense", "sparse", "multi_vectors"], k=3):
            request.ClearField(field)
            getattr(request, field).extend(getattr(good, field))
    return request


async def error_or_none(call: Awaitable[Any]) -> SluiceError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


def test_no_request_is_a_defect(tmp_path: Path) -> None:
    rng = random.Random(20)

    async def check(stub: Stub) -> None:
        answered = 0
        for number in range(REQUESTS):
            if number % 50 == 0:
                await stub.CreateCollection(collection())
                await stub.Upsert(good_upsert(rng))
            method = rng.choice(METHODS)
            request = request_for(method, rng)
            error = await error_or_none(getattr(stub, method)(request))
            assert not isinstance(error, BackendFailed), (method, request)
            assert "metadata size" not in str(error), (method, request)
            answered += error is None
        assert answered > REQUESTS // 20

    in_server(tmp_path, check)
