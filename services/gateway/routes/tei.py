"""The shape of text-embeddings-inference."""

from importlib.metadata import version
from typing import Any, Final, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Field
from sluice.client.documents import unfit
from sluice.common.v1 import model_pb2
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.errors import NotFound
from starlette.responses import Response

from services.core.arrays import F32
from services.core.similarity import unit
from services.gateway.http.errors import HttpError
from services.gateway.http.json_route import JsonRoute
from services.gateway.http.models import Body, Many
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called, Caller
from services.gateway.upstream.embedding import (
    CALL_TOKENS,
    DENSE,
    MULTI_VECTOR,
    SPARSE,
    Embeddings,
    EmbedOptions,
    Inputs,
    decode,
    embed,
    to_texts,
)
from services.gateway.upstream.reranking import RerankInput, rerank

router = APIRouter(tags=["TEI"], route_class=JsonRoute)

Direction = Literal["left", "right", "Left", "Right"]
_ROLES: Final = {
    "query": model_pb2.TEXT_ROLE_QUERY,
    "document": model_pb2.TEXT_ROLE_DOCUMENT,
    "passage": model_pb2.TEXT_ROLE_DOCUMENT,
}
_PROMPTS: Final = {"": model_pb2.TEXT_ROLE_UNSPECIFIED, **_ROLES}
_UNIT_LENGTH_TOLERANCE: Final = 1e-3


class Truncating(Body):
    """What to do with texts over the model's limit."""

    truncate: bool | None = None
    """Cut them, which is the default; false refuses them."""
    truncation_direction: Direction = "right"
    """Where they are cut."""

    def truncation(self) -> model_pb2.Truncation.ValueType:
        """The same in our words."""
        if self.truncate is False:
            return model_pb2.TRUNCATION_REFUSE
        is_left = self.truncation_direction.lower() == "left"
        return model_pb2.TRUNCATION_START if is_left else model_pb2.TRUNCATION_END


class EmbedRequest(Truncating):
    """Texts to embed."""

    inputs: Inputs
    """A text, or several; or token ids of the model, which are decoded first."""
    prompt_name: str | None = Field(None, max_length=64)
    """`query`, `document` or `passage`: what the texts are, to models with prompts; documents unless given."""
    normalize: bool = True
    """Vectors of unit length. False is refused by models whose vectors have it anyway."""
    dimensions: int = Field(0, ge=0, le=65_536)
    """Length of the vectors; 0 means all."""


class RerankRequest(Truncating):
    """Texts to rerank."""

    query: str
    """The question."""
    texts: Many[str]
    """1 to 1,024 texts."""
    raw_scores: bool = False
    """The model's own logits."""
    return_text: bool = False
    """Return the texts too."""


class TokenizeRequest(Body):
    """Texts to split."""

    inputs: str | Many[str]
    """A text, or several."""
    add_special_tokens: bool = True
    """Those too that the model is given with a text."""
    prompt_name: str | None = Field(None, max_length=64)
    """Whose prompt comes first, `query` or `document`; none unless given."""


class DecodeRequest(Body):
    """Token ids to put together."""

    ids: Many[int] | Many[Many[int]]
    """Those of a text, or of several."""
    skip_special_tokens: bool = True
    """Leave special tokens out."""


@router.post("/embed")
async def embed_dense(body: EmbedRequest, caller: Called) -> Response:
    """One vector a text."""
    embedded = await _embed(body, caller, DENSE)
    vectors = np.stack(embedded.dense)
    return json_response(list(_normalize(vectors) if body.normalize else _require_unnormalized(vectors)))


@router.post("/embed_sparse")
async def embed_sparse(body: EmbedRequest, caller: Called) -> Response:
    """Weighted terms of each text."""
    embedded = await _embed(body, caller, SPARSE)
    rows = [
        [{"index": index, "value": weight} for index, weight in zip(indices.tolist(), weights, strict=True)]
        for indices, weights in embedded.sparse
    ]
    return json_response(rows)


@router.post("/embed_all")
async def embed_all(body: EmbedRequest, caller: Called) -> Response:
    """One vector a token of each text, without special tokens."""
    return json_response((await _embed(body, caller, MULTI_VECTOR)).multi_vector)


@router.post("/rerank")
async def rerank_texts(body: RerankRequest, caller: Called) -> Response:
    """Texts by relevance."""
    options = RerankInput("", body.query, body.texts, raw_scores=body.raw_scores, truncation=body.truncation())
    ranked = await rerank(caller, options)
    results = [
        {"index": one.index, "score": one.score} | ({"text": body.texts[one.index]} if body.return_text else {})
        for one in ranked.results
    ]
    return json_response(results)


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, caller: Called) -> Response:
    """The tokens of each text, with their places in its characters."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    role = _PROMPTS.get(body.prompt_name or "")
    if role is None:
        raise unfit("prompt_name", f"expected {', '.join(_ROLES)}, got {body.prompt_name!r}")
    if (size := sum(map(len, texts))) > CALL_TOKENS:
        raise unfit("inputs", f"expected at most {CALL_TOKENS:,} characters together, got {size:,}")
    request = pb.TokenizeRequest(texts=texts, role=role, add_special_tokens=body.add_special_tokens)
    response = await caller.call(caller.upstream.embedding.Tokenize, request)
    return json_response([[_token(token) for token in text.tokens] for text in response.texts])


@router.post("/decode")
async def decode_ids(body: DecodeRequest, caller: Called) -> Response:
    """The texts of token ids."""
    sequences: list[Any] = [body.ids] if body.ids and isinstance(body.ids[0], int) else body.ids
    texts = await decode(caller, sequences, field="ids", skip_special=body.skip_special_tokens)
    return json_response(texts)


@router.get("/info")
async def info(caller: Called) -> Response:
    """The embedding model: the first by name, when several are served."""
    listed = await caller.call(caller.upstream.embedding.ListModels, pb.ListModelsRequest())
    if not listed.models:
        raise NotFound("no embedding model is served")
    return json_response(_model_info(listed.models[0], caller))


def _token(token: pb.Token) -> dict[str, Any]:
    start, stop = (None, None) if token.special else (token.char_start, token.char_end)
    return {"id": token.id, "text": token.text, "special": token.special, "start": start, "stop": stop}


def _model_info(model: pb.EmbeddingModel, caller: Caller) -> dict[str, Any]:
    settings = caller.upstream.settings
    return {
        "model_id": model.model.name,
        "model_sha": model.model.digest,
        "model_dtype": model.variant,
        "model_type": {"embedding": {"pooling": "in the graph"}},
        "max_concurrent_requests": settings.max_connections,
        "max_input_length": model.max_token_count,
        "max_batch_tokens": 0,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_inputs,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": version("sluice-search"),
        "sha": None,
        "docker_label": None,
    }


async def _embed(body: EmbedRequest, caller: Caller, kind: pb.Representation.ValueType) -> Embeddings:
    most = caller.upstream.settings.max_inputs
    if not isinstance(body.inputs, str) and len(body.inputs) > most:
        raise HttpError(413, f"inputs: expected at most {most:,}, got {len(body.inputs):,}")
    role = _ROLES.get(body.prompt_name or "document")
    if role is None:
        raise unfit("prompt_name", f"expected {', '.join(_ROLES)}, got {body.prompt_name!r}")
    texts = await to_texts(caller, body.inputs, field="inputs")
    return await embed(caller, texts, EmbedOptions("", role, kind, body.truncation(), body.dimensions))


def _normalize(vectors: F32) -> F32:
    """Unit length, which most models give already: then not a bit is touched."""
    lengths = np.linalg.norm(vectors, axis=1)
    return vectors if np.abs(lengths - 1).max() < _UNIT_LENGTH_TOLERANCE else unit(vectors)


def _require_unnormalized(vectors: F32) -> F32:
    """The vectors as the model gives them. Raises InvalidRequest when it gives nothing but unit length."""
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < _UNIT_LENGTH_TOLERANCE:
        raise unfit("normalize", "expected true, since this model's vectors have unit length, got false")
    return vectors
