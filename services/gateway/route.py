"""Routes whose JSON bodies are bounded and read before FastAPI sees them."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sluice.errors import SluiceError
from starlette.responses import Response

from services.gateway.errors import Refused
from services.gateway.held import Share
from services.gateway.json_input import JsonError, memory_bytes, parsed
from services.gateway.request_validation import unfit_shape
from services.gateway.threads import finished_in_thread

# Bodies from this size on are looked through in a thread.
_HEAVY_BYTES: Final = 65_536

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRoute(APIRoute):
    """A route whose body, when it has one, is read by `JsonRequest`."""

    def get_route_handler(self) -> Handler:
        """Return what answers a request."""
        answer = super().get_route_handler()
        if self.body_field is None:
            return answer

        async def read_and_answer(request: Request) -> Response:
            read = JsonRequest(request.scope, request.receive)
            try:
                await read.parse()
                return await answer(read)
            except RequestValidationError as error:
                refusal: SluiceError = unfit_shape(error)
                error.__traceback__ = None
            except SluiceError as error:
                refusal = error
            finally:
                read.release()
            # The frames of an error hold the request, and FastAPI's the error; the answer may be read for a long time.
            refusal.__traceback__ = refusal.__context__ = None
            raise refusal

        return read_and_answer


class JsonRequest(Request):
    """A request whose body the guard has read."""

    _has_body = False

    async def parse(self) -> None:
        """Parse the body, and let go of its bytes. Raise Refused, and Unavailable when there is no memory for it."""
        text: bytearray = self.state.body
        if not text:
            return
        try:
            self._expect_json()
            self._share.add(await self._weigh(text))
            self._json = parsed(text)
        except JsonError as error:
            raise Refused(400, f"body: {error}") from None
        else:
            self._has_body = True
            self._share.add(-len(text))
        finally:
            text.clear()

    async def _weigh(self, text: bytearray) -> int:
        """Return how many bytes the parsed body will take. Raise JsonError."""
        weigh = partial(memory_bytes, text, max_values=self.app.state.settings.max_body_values)
        return weigh() if len(text) < _HEAVY_BYTES else await finished_in_thread(weigh)

    def release(self) -> None:
        """Let go of the parsed body: its answer may be read for a long time."""
        self._json = None
        self._share.resize(0)

    async def body(self) -> bytes:
        """Something that is not empty when there was a body; FastAPI asks for no more."""
        return b"{}" if self._has_body else b""

    @property
    def _share(self) -> Share:
        share: Share = self.state.held
        return share

    def _expect_json(self) -> None:
        given = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        kind, _, subtype = given.partition("/")
        if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
            raise Refused(415, f"expected application/json, got {given[:80] or 'no content-type'}")
