"""A KServe v2 server at an address: Triton, KServe or Sluice. It uses the tensors of NVIDIA's NIM.

embed   text [1, 1] BYTES                            -> the first output of floats, [1, D]
rerank  query [1, 1] BYTES, passage [N, 1] BYTES     -> the first output of floats, [N, 1]
"""

from typing import Any, Final

import numpy as np
from sluice.cli.console import CommandFailed
from sluice.kserve.v2 import inference_service_pb2 as pb

from loadtest.peers.work import Endpoint, Values, Work

PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
_FLOATS: Final[dict[str, np.dtype[Any]]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2")}
_OUTPUTS: Final = {"embed": "dense", "rerank": "score"}


def endpoint(address: str, work: Work, model: str, output: str = "") -> Endpoint:
    """Return the calls of the work in this protocol. `output` names the output if it differs from ours."""
    wanted = output or _OUTPUTS[work.task]
    requests = []
    for job in work.plain:
        query, passages = job if work.task == "rerank" else (None, [job])
        # As many queries as passages: Triton needs the same number of rows in each tensor.
        tensors = {"text": passages} if query is None else {"query": [query] * len(passages), "passage": passages}
        requests.append(_request(model, wanted, tensors).SerializeToString())
    return Endpoint(address, PATH, requests, lambda answer: _values(answer, wanted))


def _request(model: str, output: str, tensors: dict[str, list[str]]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.outputs.add(name=output)
    for name, texts in tensors.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[len(texts), 1])
        encoded = [text.encode() for text in texts]
        request.raw_input_contents.append(b"".join(len(one).to_bytes(4, "little") + one for one in encoded))
    return request


def _values(answer: bytes, output: str) -> Values:
    """Return the elements of the wanted output. Raises CommandFailed if it is not there as floats."""
    response = pb.ModelInferResponse.FromString(answer)
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        if tensor.name == output and tensor.datatype in _FLOATS:
            return [float(value) for value in np.frombuffer(raw, _FLOATS[tensor.datatype])]
    given = ", ".join(f"{tensor.name} {tensor.datatype}" for tensor in response.outputs) or "none"
    raise CommandFailed(f"expected an output {output} of floats with raw contents, got {given}")
