"""tei.v1.Tokenize: texts to tokens and back."""

from collections.abc import AsyncIterator, Sequence

from sluice.tei.v1 import tei_service_pb2 as pb
from sluice.tei.v1.tei_service_pb2_grpc import TokenizeServicer, add_TokenizeServicer_to_server

from services.compat.tei.call import TeiBackend, role_of
from services.inference.scheduler import Lane
from services.inference.tokenizer import Token
from services.inference.tokens import MAX_INPUT, byte_positions, check_ids, check_texts, join, split
from services.rpc.auth.authorizer import methods_of
from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service
from services.rpc.validation import validating


class TeiTokenize(TokenizeServicer):
    """Splits texts into the tokens of a model, and joins tokens into texts."""

    def __init__(self, backend: TeiBackend) -> None:
        self._backend = backend

    @property
    def service(self) -> Service:
        """The service to register with a server."""
        name = "tei.v1.Tokenize"
        return Service(name, lambda server: add_TokenizeServicer_to_server(self, server), reads=methods_of(name))

    async def Tokenize(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        """Return the tokens of a text."""
        return await self._split(request, context)

    def TokenizeStream(
        self, request_iterator: AsyncIterator[pb.EncodeRequest], context: Context
    ) -> AsyncIterator[pb.EncodeResponse]:
        """Yield the tokens of each text."""
        return self._backend.stream(request_iterator, self._split, context)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """Return the text of tokens."""
        return await self._join(request, context)

    def DecodeStream(
        self, request_iterator: AsyncIterator[pb.DecodeRequest], context: Context
    ) -> AsyncIterator[pb.DecodeResponse]:
        """Yield the text of each sequence of tokens."""
        return self._backend.stream(request_iterator, self._join, context)

    async def _split(
        self, request: pb.EncodeRequest, context: Context, lane: Lane = "interactive"
    ) -> pb.EncodeResponse:
        with self._backend.using(context) as model:
            with validating() as violations:
                self._backend.check_text("inputs", request.inputs, violations)
                check_texts([request.inputs], violations, field="inputs")
                role = role_of(request, violations)
            text = model.bundle.manifest.prompt_of(role) + request.inputs
            [response] = await split(model, [text], special=request.add_special_tokens, convert=_response_of)
            return response

    async def _join(self, request: pb.DecodeRequest, context: Context, _: Lane = "interactive") -> pb.DecodeResponse:
        with self._backend.using(context) as model:
            with validating() as violations:
                if violations.count("ids", len(request.ids), low=1, high=MAX_INPUT, what="ids"):
                    check_ids(request.ids, model, violations, field="ids")
            [text] = await join(model, [request.ids], skip_special=request.skip_special_tokens)
            return pb.DecodeResponse(text=text)


def _response_of(text: str, tokens: Sequence[Token]) -> pb.EncodeResponse:
    at = byte_positions(text)
    return pb.EncodeResponse(
        tokens=[
            pb.SimpleToken(id=token.id, text=token.text, special=True)
            if token.is_special
            else pb.SimpleToken(id=token.id, text=token.text, start=int(at[token.start]), stop=int(at[token.end]))
            for token in tokens
        ]
    )
