"""OpenAI's shape: `/v1/embeddings` and `/v1/models`.

Facts: OpenAI's Python client asks for base64 unless told otherwise, and reads the floats from it with numpy.
"""

import base64
from typing import Any, Final, Literal

from fastapi import APIRouter
from pydantic import Field
from sluice.common.v1 import model_pb2
from sluice.embedding.v1 import embedding_service_pb2
from sluice.errors import SluiceError
from sluice.reranking.v1 import reranking_service_pb2
from starlette.responses import Response

from services.core.arrays import F32
from services.gateway.http.json_route import JsonRoute
from services.gateway.http.models import Body
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.embedding import EmbedOptions, Inputs, embed, to_texts

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

_ROLES: Final = {
    "query": model_pb2.TEXT_ROLE_QUERY,
    "document": model_pb2.TEXT_ROLE_DOCUMENT,
    "passage": model_pb2.TEXT_ROLE_DOCUMENT,
}


class EmbeddingsRequest(Body):
    """Texts to embed."""

    input: Inputs
    """A text, or 1 to 2,048; or token ids of the model, which are decoded first."""
    model: str = Field(min_length=1, max_length=256)
    """Name of a served model: `/v1/models` lists them."""
    encoding_format: Literal["float", "base64"] = "float"
    """`base64` is that of little-endian float32: a quarter of the bytes, and faster."""
    dimensions: int = Field(0, ge=0, le=65_536)
    """Length of the vectors, one that the model was trained for; 0 means all."""
    input_type: Literal["query", "document", "passage"] = "document"
    """What the texts are, to models with prompts. Not in OpenAI's own shape: clients send it as an extra field."""


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsRequest, caller: Called) -> Response:
    """The vectors of texts."""
    texts = await to_texts(caller, body.input, field="input", model=body.model)
    options = EmbedOptions(body.model, _ROLES[body.input_type], dimensions=body.dimensions)
    embedded = await embed(caller, texts, options)
    written = _base64 if body.encoding_format == "base64" else _unchanged
    data = [
        {"object": "embedding", "index": index, "embedding": written(vector)}
        for index, vector in enumerate(embedded.dense)
    ]
    usage = {"prompt_tokens": embedded.token_count, "total_tokens": embedded.token_count}
    return json_response({"object": "list", "data": data, "model": embedded.model, "usage": usage})


@router.get("/v1/models")
async def models(caller: Called) -> Response:
    """The models for embedding and for reranking, by name. Those of a service that does not answer are left out."""
    names: set[str] = set()
    failures: list[SluiceError] = []
    for method, request in (
        (caller.upstream.embedding.ListModels, embedding_service_pb2.ListModelsRequest()),
        (caller.upstream.reranking.ListModels, reranking_service_pb2.ListModelsRequest()),
    ):
        try:
            names.update(model.model.name for model in (await caller.call(method, request)).models)
        except SluiceError as error:
            failures.append(error)
    if len(failures) == 2:
        raise failures[0]
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "sluice"} for name in sorted(names)]
    return json_response({"object": "list", "data": data})


def _base64(vector: F32) -> str:
    return base64.b64encode(vector.tobytes()).decode()


def _unchanged(vector: F32) -> Any:
    return vector
