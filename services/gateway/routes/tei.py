"""The API of text-embeddings-inference (TEI)."""

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
from services.gateway.http.models import ERRORS, Body, Many, ResponseBody, described
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called, Caller
from services.gateway.upstream.embedding import (
    CALL_TOKENS,
    DENSE,
    MULTI_VECTOR,
    ROLES,
    SPARSE,
    Embeddings,
    EmbedOptions,
    Inputs,
    decode,
    embed,
    to_texts,
)
from services.gateway.upstream.reranking import RerankInput, rerank

router = APIRouter(tags=["TEI"], responses=ERRORS, route_class=JsonRoute)

Direction = Literal["left", "right", "Left", "Right"]
_PROMPTS: Final = {"": model_pb2.TEXT_ROLE_UNSPECIFIED, **ROLES}
_UNIT_LENGTH_TOLERANCE: Final = 1e-3


class TruncationOptions(Body):
    """Treatment of texts over the model's limit."""

    truncate: bool | None = None
    """Whether texts over the model's limit are cut. False rejects such texts. Default: true."""
    truncation_direction: Direction = "right"
    """The end at which texts are cut."""

    def truncation(self) -> model_pb2.Truncation.ValueType:
        """Return the same for the gRPC API."""
        if self.truncate is False:
            return model_pb2.TRUNCATION_REFUSE
        is_left = self.truncation_direction.lower() == "left"
        return model_pb2.TRUNCATION_START if is_left else model_pb2.TRUNCATION_END


class EmbedRequest(TruncationOptions):
    """Texts to embed."""

    inputs: Inputs
    """A text, several texts, or token ids of one or more texts. Token ids are decoded to text first."""
    prompt_name: str | None = Field(None, max_length=64)
    """`query`, `document` or `passage`, for models that distinguish queries from documents. Default: `document`."""
    normalize: bool = True
    """Whether vectors are scaled to unit length. False is rejected if the model's vectors always have unit length."""
    dimensions: int = Field(0, ge=0, le=65_536)
    """Length of the vectors, for models that support shorter ones. 0 means the full length."""


class RerankRequest(TruncationOptions):
    """Texts to rerank."""

    query: str
    """The query."""
    texts: Many[str]
    """1 to 1,024 texts."""
    raw_scores: bool = False
    """Whether scores are the model's logits."""
    return_text: bool = False
    """Whether results contain the texts."""


class TokenizeRequest(Body):
    """Texts to tokenize."""

    inputs: str | Many[str]
    """A text, or several texts."""
    add_special_tokens: bool = True
    """Whether the result includes the special tokens that the model receives with a text."""
    prompt_name: str | None = Field(None, max_length=64)
    """`query`, `document` or `passage`: the kind of prompt in front of the texts. Default: no prompt."""


class DecodeRequest(Body):
    """Token ids to decode."""

    ids: Many[int] | Many[Many[int]]
    """Token ids of a text, or of several texts."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of the texts."""


class Term(ResponseBody):
    """A term of a sparse vector."""

    index: int
    """Number of the term in the model's vocabulary."""
    value: float
    """Weight of the term."""


class RankedText(ResponseBody):
    """A text with its score."""

    index: int
    """Position of the text in the request, from 0."""
    score: float
    """Score of the text, higher for more relevant ones."""
    text: str | None = None
    """The text, with `return_text`. Otherwise missing."""


class TextToken(ResponseBody):
    """A token of a text."""

    id: int
    """Number of the token in the model's vocabulary."""
    text: str
    """Text of the token."""
    special: bool
    """Whether it is a special token."""
    start: int | None
    """Position of its first character in the text; null for special tokens."""
    stop: int | None
    """Position after its last character in the text; null for special tokens."""


class Info(ResponseBody):
    """The embedding model, in the format of TEI. Fields that do not apply to Sluice have fixed values."""

    model_id: str
    """Name of the model."""
    model_sha: str
    """Digest of the model's bundle."""
    model_dtype: str
    """Variant of the model."""
    model_type: dict[str, dict[str, str]]
    """Fixed: an embedding model with pooling in the graph."""
    max_concurrent_requests: int
    """Most connections of the gateway."""
    max_input_length: int
    """Most tokens of a text."""
    max_batch_tokens: int
    """Fixed: 0."""
    max_batch_requests: int | None
    """Fixed: null."""
    max_client_batch_size: int
    """Most texts of a request."""
    auto_truncate: bool
    """Fixed: true."""
    tokenization_workers: int
    """Fixed: 1."""
    version: str
    """Version of Sluice."""
    sha: str | None
    """Fixed: null."""
    docker_label: str | None
    """Fixed: null."""


@router.post("/embed", responses=described(list[list[float]], "A vector for each text."))
async def embed_dense(body: EmbedRequest, caller: Called) -> Response:
    """Embed texts: one dense vector for each text."""
    embeddings = await _embed(body, caller, DENSE)
    vectors = np.stack(embeddings.dense)
    return json_response(list(_normalize(vectors) if body.normalize else _require_unnormalized(vectors)))


@router.post("/embed_sparse", responses=described(list[list[Term]], "The terms of each text."))
async def embed_sparse(body: EmbedRequest, caller: Called) -> Response:
    """Embed texts with a sparse model: weighted terms for each text."""
    embeddings = await _embed(body, caller, SPARSE)
    rows = [
        [{"index": index, "value": weight} for index, weight in zip(indices.tolist(), weights, strict=True)]
        for indices, weights in embeddings.sparse
    ]
    return json_response(rows)


@router.post("/embed_all", responses=described(list[list[list[float]]], "The token vectors of each text."))
async def embed_all(body: EmbedRequest, caller: Called) -> Response:
    """Embed texts with a late-interaction model: a vector for each token of each text, without special tokens."""
    return json_response((await _embed(body, caller, MULTI_VECTOR)).multi_vector)


@router.post("/rerank", responses=described(list[RankedText], "The texts, most relevant first."))
async def rerank_texts(body: RerankRequest, caller: Called) -> Response:
    """Rerank texts by their relevance to a query."""
    rerank_input = RerankInput("", body.query, body.texts, raw_scores=body.raw_scores, truncation=body.truncation())
    ranked = await rerank(caller, rerank_input)
    results = [
        {"index": one.index, "score": one.score} | ({"text": body.texts[one.index]} if body.return_text else {})
        for one in ranked.results
    ]
    return json_response(results)


@router.post("/tokenize", responses=described(list[list[TextToken]], "The tokens of each text."))
async def tokenize(body: TokenizeRequest, caller: Called) -> Response:
    """Tokenize texts. Each token has its position in the characters of the text."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    role = _PROMPTS.get(body.prompt_name or "")
    if role is None:
        raise unfit("prompt_name", f"expected {', '.join(ROLES)}, got {body.prompt_name!r}")
    if (size := sum(map(len, texts))) > CALL_TOKENS:
        raise unfit("inputs", f"expected at most {CALL_TOKENS:,} characters in all texts together, got {size:,}")
    request = pb.TokenizeRequest(texts=texts, role=role, add_special_tokens=body.add_special_tokens)
    response = await caller.call(caller.upstream.embedding.Tokenize, request)
    return json_response([[_token(token) for token in text.tokens] for text in response.texts])


@router.post("/decode", responses=described(list[str], "A text for each list of token ids."))
async def decode_ids(body: DecodeRequest, caller: Called) -> Response:
    """Decode token ids to texts."""
    sequences: list[Any] = [body.ids] if body.ids and isinstance(body.ids[0], int) else body.ids
    texts = await decode(caller, sequences, field="ids", skip_special=body.skip_special_tokens)
    return json_response(texts)


@router.get("/info", responses=described(Info))
async def info(caller: Called) -> Response:
    """Describe the embedding model: the first by name, if several are served."""
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
        raise HttpError(413, f"inputs: expected at most {most:,} texts, got {len(body.inputs):,}")
    role = ROLES.get(body.prompt_name or "document")
    if role is None:
        raise unfit("prompt_name", f"expected {', '.join(ROLES)}, got {body.prompt_name!r}")
    texts = await to_texts(caller, body.inputs, field="inputs")
    return await embed(caller, texts, EmbedOptions("", role, kind, body.truncation(), body.dimensions))


def _normalize(vectors: F32) -> F32:
    """Return the vectors at unit length; unchanged if they have it already, as those of most models do."""
    lengths = np.linalg.norm(vectors, axis=1)
    return vectors if np.abs(lengths - 1).max() < _UNIT_LENGTH_TOLERANCE else unit(vectors)


def _require_unnormalized(vectors: F32) -> F32:
    """Return the vectors of the model. Raises InvalidRequest if they all have unit length."""
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < _UNIT_LENGTH_TOLERANCE:
        raise unfit("normalize", "expected true, since this model's vectors have unit length, got false")
    return vectors
