"""OpenAI's API: `/v1/embeddings` and `/v1/models`.

Facts: OpenAI's Python client requests base64 by default, and reads the floats from it with numpy.
"""

import base64
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from sluice.embedding.v1 import embedding_service_pb2
from sluice.errors import SluiceError
from sluice.reranking.v1 import reranking_service_pb2
from starlette.responses import Response

from services.core.arrays import F32
from services.gateway.http.json_route import JsonRoute
from services.gateway.http.models import ERRORS, Body, ResponseBody, described
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.embedding import ROLES, EmbedOptions, Inputs, embed, to_texts

router = APIRouter(tags=["OpenAI"], responses=ERRORS, route_class=JsonRoute)


class EmbeddingsRequest(Body):
    """Texts to embed."""

    input: Inputs
    """A text, 1 to 2,048 texts, or token ids of one or more texts. Token ids are decoded to text first."""
    model: str = Field(min_length=1, max_length=256)
    """Name of a served model. `/v1/models` lists them."""
    encoding_format: Literal["float", "base64"] = "float"
    """`float` for a list of numbers, `base64` for base64 of little-endian float32, which is faster and a quarter of the
    size."""
    dimensions: int = Field(0, ge=0, le=65_536)
    """Length of the vectors, for models that support shorter ones. 0 means the full length."""
    input_type: Literal["query", "document", "passage"] = "document"
    """Kind of the texts, for models that distinguish queries from documents. `passage` means `document`. Sluice adds
    this field to OpenAI's API; send it with `extra_body`."""


class Embedding(ResponseBody):
    """The vector of a text."""

    object: str
    """Always `embedding`."""
    index: int
    """Position of the text in the request, from 0."""
    embedding: list[float] | str
    """The vector, as a list of numbers or as base64."""


class Usage(ResponseBody):
    """The tokens of a request."""

    prompt_tokens: int
    """Number of tokens of all texts."""
    total_tokens: int
    """The same number."""


class EmbeddingsResponse(ResponseBody):
    """The vectors of texts."""

    object: str
    """Always `list`."""
    data: list[Embedding]
    """One vector for each text, in the order of the texts."""
    model: str
    """Name of the model."""
    usage: Usage
    """Number of tokens."""


class Model(ResponseBody):
    """A served model."""

    id: str
    """Name of the model."""
    object: str
    """Always `model`."""
    created: int
    """Always 0."""
    owned_by: str
    """Always `sluice`."""


class ModelsResponse(ResponseBody):
    """The served models."""

    object: str
    """Always `list`."""
    data: list[Model]
    """The models, by name."""


@router.post("/v1/embeddings", responses=described(EmbeddingsResponse))
async def embeddings(body: EmbeddingsRequest, caller: Called) -> Response:
    """Embed texts."""
    texts = await to_texts(caller, body.input, field="input", model=body.model)
    options = EmbedOptions(body.model, ROLES[body.input_type], dimensions=body.dimensions)
    embeddings = await embed(caller, texts, options)
    encode = _base64 if body.encoding_format == "base64" else _unchanged
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(embeddings.dense)
    ]
    usage = {"prompt_tokens": embeddings.token_count, "total_tokens": embeddings.token_count}
    return json_response({"object": "list", "data": data, "model": embeddings.model, "usage": usage})


@router.get("/v1/models", responses=described(ModelsResponse))
async def models(caller: Called) -> Response:
    """List the models of the embedding and reranking services, by name.

    If one of the two services does not respond, its models are missing. If neither responds, this is an error.
    """
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
