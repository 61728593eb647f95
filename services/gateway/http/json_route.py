"""Routes whose JSON bodies are limited and parsed before FastAPI sees them."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sluice.errors import SluiceError
from starlette.responses import Response

from services.gateway.http.errors import HttpError
from services.gateway.http.json_input import JsonError, memory_bytes, parse
from services.gateway.http.memory_budget import MemoryShare
from services.gateway.http.request_validation import invalid_request
from services.gateway.http.threads import run_in_thread

# Larger bodies are measured in a thread.
_INLINE_BYTES: Final = 65_536

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRoute(APIRoute):
    """A route whose body, if it has one, is parsed by `JsonRequest`."""

    def get_route_handler(self) -> Handler:
        """Return the function that responds to a request."""
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler

        async def parse_and_handle(request: Request) -> Response:
            json_request = JsonRequest(request.scope, request.receive)
            try:
                await json_request.parse()
                return await handler(json_request)
            except RequestValidationError as error:
                rejection: SluiceError = invalid_request(error)
                error.__traceback__ = None
            except SluiceError as error:
                rejection = error
            finally:
                json_request.release()
            # The traceback references the request. Without it, the request is freed before the client has read the
            # response, which may take long.
            rejection.__traceback__ = rejection.__context__ = None
            raise rejection

        return parse_and_handle


class JsonRequest(Request):
    """A request whose body the middleware has read."""

    _has_body = False

    async def parse(self) -> None:
        """Parse the body and free its bytes.

        Raises HttpError for an invalid body, and Unavailable if there is no memory for it.
        """
        text: bytearray = self.state.body
        if not text:
            return
        try:
            self._expect_json()
            self._share.add(await self._measure(text))
            self._json = parse(text)
        except JsonError as error:
            raise HttpError(400, f"body: {error}") from None
        else:
            self._has_body = True
            self._share.add(-len(text))
        finally:
            text.clear()

    async def _measure(self, text: bytearray) -> int:
        """Return the bytes that the parsed body will take. Raises JsonError."""
        measure = partial(memory_bytes, text, max_values=self.app.state.settings.max_body_values)
        return measure() if len(text) < _INLINE_BYTES else await run_in_thread(measure)

    def release(self) -> None:
        """Free the parsed body, because the client may take long to read the response."""
        self._json = None
        self._share.resize(0)

    async def body(self) -> bytes:
        """Return a placeholder that is empty if there was no body. FastAPI only checks whether it is empty."""
        return b"{}" if self._has_body else b""

    @property
    def _share(self) -> MemoryShare:
        share: MemoryShare = self.state.body_share
        return share

    def _expect_json(self) -> None:
        given = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        kind, _, subtype = given.partition("/")
        if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
            raise HttpError(415, f"expected application/json, got {given[:80] or 'no content-type'}")
