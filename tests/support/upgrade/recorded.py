"""Requests and their answers as JSON, so that one checkout records them and another is compared with them."""

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import numpy as np
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from sluice.embedding.v1 import embedding_service_pb2 as embedding
from sluice.errors import InvalidRequest, SluiceError, from_rpc_error
from sluice.reranking.v1 import reranking_service_pb2 as reranking
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval
from sluice.search.v1 import search_service_pb2 as search

TIMEOUT_S: Final = 60.0
TOLERANCE: Final = 1e-5
_NEWER_FIELDS: Final = {"dropped_token_count", "dropped_tokens", "query_usage", "truncated", "truncated_count"}
GATEWAY: Final = "gateway"
_PROTOS: Final[Mapping[str, Any]] = {
    "embedding": embedding,
    "retrieval": retrieval,
    "reranking": reranking,
    "orchestrator": search,
}
# Times, estimates and ids of requests, which differ from run to run, and texts for people, which may be improved.
_VARYING: Final = {"problems", "duration", "duration_ms", "duration_s", "memory_bytes", "store_bytes", "created"}
_REQUEST_ID_LENGTH: Final = 32
_ELEMENTS: Final = {"DATA_TYPE_FLOAT32": "<f4", "DATA_TYPE_FLOAT16": "<f2", "DATA_TYPE_INT8": "i1"}


@dataclass(frozen=True)
class Call:
    """A request: an RPC with its message as JSON, or `POST /path` with a JSON body for the gateway."""

    service: str
    method: str
    request: Any = None
    token: str = ""


def rpc(service: str, method: str, request: Message, token: str = "") -> Call:
    """Return the call of an RPC."""
    return Call(service, method, MessageToDict(request, preserving_proto_field_name=True), token)


def answer(call: Call, address: str) -> dict[str, Any]:
    """Send a call to the server at an address and return the comparable part of its answer.

    Times and estimates are left out, and so are the texts of errors, which may be improved.
    """
    headers = {"authorization": f"Bearer {call.token}"} if call.token else {}
    return _http_answer(call, address, headers) if call.service == GATEWAY else _rpc_answer(call, address, headers)


def _rpc_answer(call: Call, address: str, headers: Mapping[str, str]) -> dict[str, Any]:
    (service,) = _PROTOS[call.service].DESCRIPTOR.services_by_name.values()
    method = service.methods_by_name[call.method]
    with grpc.insecure_channel(address) as channel:
        stub: Any = channel.unary_unary(
            f"/{service.full_name}/{call.method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        request = ParseDict(call.request, GetMessageClass(method.input_type)())
        try:
            response = stub(request, timeout=TIMEOUT_S, metadata=tuple(headers.items()))
        except grpc.RpcError as error:
            return {"error": _fields_of(from_rpc_error(error))}
    return {"response": _comparable(MessageToDict(response, preserving_proto_field_name=True))}


def _fields_of(error: SluiceError) -> dict[str, Any]:
    """Return what programs read of an error."""
    violations = [one.field for one in error.violations] if isinstance(error, InvalidRequest) else []
    return {
        "code": error.code.name,
        "reason": error.reason_name,
        "metadata": dict(error.metadata),
        "violations": violations,
    }


def _http_answer(call: Call, address: str, headers: Mapping[str, str]) -> dict[str, Any]:
    method, _, path = call.method.partition(" ")
    url = f"http://{address}{path}"
    response = httpx.request(method, url, json=call.request, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    body = _comparable(response.json())
    return {"status": response.status_code, "body": body if response.is_success else _without_sentences(body)}


def _comparable(tree: Any) -> Any:
    """Return a tree without times, estimates and the texts of reasons, with tensors as lists of numbers."""
    if isinstance(tree, list):
        return [_comparable(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.get("data_type") in _ELEMENTS and isinstance(tree.get("data"), str):
        elements = np.frombuffer(base64.b64decode(tree["data"]), _ELEMENTS[tree["data_type"]])
        return tree | {"data": [round(float(element), 6) for element in elements]}
    kept = {key: _comparable(value) for key, value in tree.items() if not _is_varying(key, value)}
    if isinstance(reason := kept.get("reason"), str):
        kept["reason"] = reason.partition(":")[0]
    return kept


def _is_varying(key: str, value: Any) -> bool:
    """Return whether a value differs from run to run."""
    return key in _VARYING or (key == "id" and isinstance(value, str) and len(value) == _REQUEST_ID_LENGTH)


def _without_sentences(tree: Any) -> Any:
    """Return a tree whose texts for people are replaced: those with a space."""
    if isinstance(tree, dict):
        return {key: _without_sentences(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_sentences(one) for one in tree]
    return "(text)" if isinstance(tree, str) and " " in tree else tree


def _without_sentence(text: str) -> str:
    """Return the name in `UNKNOWN_MODEL: no such model`, the reason of a stage, and any other text as it is."""
    name, separator, _ = text.partition(": ")
    return name if separator and name.isupper() and name.replace("_", "").isalpha() else text


def record(calls: Iterable[Call], addresses: Mapping[str, str], file: Path) -> None:
    """Send calls in order, and write a line of JSON for each: the call and its answer."""
    lines = [{"call": asdict(call), "answer": answer(call, addresses[call.service])} for call in calls]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def recorded(file: Path) -> list[tuple[Call, dict[str, Any]]]:
    """Return the calls of a file, in order, with their answers."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(Call(**line["call"]), _comparable(line["answer"])) for line in lines]


def changes(file: Path, addresses: Mapping[str, str]) -> list[str]:
    """Send the calls of a file again, in order, and return what is answered differently now."""
    return [
        f"{call.service} {call.method} {json.dumps(call.request, ensure_ascii=False):.300}: {difference}"
        for call, before in recorded(file)
        for difference in differences(before, answer(call, addresses[call.service]))
    ]


def differences(expected: Any, found: Any, path: str = "answer", *, tolerance: float = TOLERANCE) -> Iterator[str]:
    """Yield the places where two trees differ. Numbers may differ by the tolerance, relative or absolute.

    Fields that were added after the answers were recorded do not count.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | (found.keys() - _NEWER_FIELDS)):
            yield from differences(expected.get(key), found.get(key), f"{path}.{key}", tolerance=tolerance)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{path}[{index}]", tolerance=tolerance)
    elif not _is_equal(expected, found, tolerance):
        yield f"{path}: expected {expected!r:.200}, got {found!r:.200}"


def _is_equal(expected: Any, found: Any, tolerance: float) -> bool:
    if isinstance(expected, str) and isinstance(found, str):
        return _without_sentence(expected) == _without_sentence(found)
    if isinstance(expected, float) and isinstance(found, int | float):
        return math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)
    return bool(expected == found)
