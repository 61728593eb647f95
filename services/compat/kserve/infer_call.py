"""A request for inference, and the backend of a model server that answers it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from sluice.kserve.v2 import inference_service_pb2 as pb

from services.compat.kserve.parameters import Parameters
from services.compat.kserve.tensors import InputTensor, Spec, input_tensors
from services.inference.loader import Model
from services.inference.scheduler import Schedule
from services.rpc.server.interceptor import Context
from services.rpc.validation import Violations, quote

Outputs = Mapping[str, NDArray[Any]]
"""Tensors by name."""


@dataclass(frozen=True)
class Signature:
    """The tensors of a model."""

    inputs: Sequence[Spec]
    outputs: Sequence[Spec]


@dataclass(frozen=True)
class InferCall:
    """The contents of an inference request, after validation of their form."""

    tensors: Mapping[str, InputTensor]
    parameters: Parameters
    wanted: Sequence[str]
    """Names of the requested outputs, in the order of the response."""
    schedule: Schedule


@dataclass(frozen=True)
class InferenceBackend:
    """The inference of a model server, on tensors."""

    signature: Callable[[Model], Signature]
    """Returns the tensors of a model."""
    infer: Callable[[Model, InferCall, Violations], Awaitable[tuple[Outputs, int]]]
    """Returns the outputs of a request and its number of rows. Adds violations of the request, and raises them."""
    parameters: tuple[str, ...]
    """Names of accepted parameters, in addition to those that every model has."""
    most_rows: int
    """Most rows of one request."""


def infer_call(
    request: pb.ModelInferRequest, signature: Signature, inference: InferenceBackend, context: Context, *, max_s: float
) -> tuple[InferCall, Violations]:
    """Return the contents of a request, and its violations so far."""
    violations = Violations()
    if len(request.id) > 1024:
        violations.add("id", f"expected at most 1,024 characters, got {len(request.id):,}")
    parameters = Parameters(request.parameters, inference.parameters, violations)
    wanted = _wanted(request, signature, violations)
    tensors = input_tensors(request, signature.inputs, violations, most_rows=inference.most_rows)
    schedule = parameters.schedule(context, max_s=max_s)
    return InferCall(tensors, parameters, wanted, schedule), violations


def _wanted(request: pb.ModelInferRequest, signature: Signature, violations: Violations) -> list[str]:
    """Return the names of the requested outputs; all if none is requested."""
    names = [spec.name for spec in signature.outputs]
    wanted: list[str] = []
    if not violations.count("outputs", len(request.outputs), low=0, high=len(names), what="outputs"):
        return names
    for position, output in enumerate(request.outputs):
        if output.name not in names or output.name in wanted:
            violations.add(
                f"outputs[{position}].name", f"expected one of {', '.join(names)}, each once, got {quote(output.name)}"
            )
        elif output.parameters:
            violations.add(
                f"outputs[{position}].parameters", "expected none because shared memory is not supported, got some"
            )
        else:
            wanted.append(output.name)
    return wanted if request.outputs else names


def rows_of(tensors: Sequence[InputTensor], violations: Violations) -> int:
    """Return the number of rows that the tensors have in common; add a violation if it differs."""
    counts = {tensor.shape[0] for tensor in tensors}
    if len(counts) > 1:
        violations.add(tensors[-1].field, f"expected as many rows as in {tensors[0].field}, got {sorted(counts)}")
    return max(counts, default=0)


def texts_of(tensor: InputTensor, violations: Violations, *, max_bytes: int) -> list[str]:
    """Return the texts of a BYTES tensor; add violations for texts that are not UTF-8, empty or too long."""
    texts = []
    for position, value in enumerate(tensor.values):
        field = f"{tensor.field}[{position}]"
        if len(value) > max_bytes:
            violations.add(field, f"expected at most {max_bytes:,} bytes of UTF-8, got {len(value):,}")
            continue
        try:
            text = bytes(value).decode()
        except UnicodeDecodeError as error:
            violations.add(field, f"expected UTF-8, got byte {value[error.start]:#04x} at {error.start}")
            continue
        violations.text(field, text, max_bytes=max_bytes)
        texts.append(text)
    return texts
