"""The routes, joined; and what becomes of what they raise."""

import reprlib
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sluice.errors import BackendFailed, InvalidRequest, SluiceError, Violation
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.gateway.errors import Refused, error_response
from services.gateway.routes import cohere, collections, console, documents, health, openai, rerank, search, system, tei
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Upstream

_SHAPES: Final = (health, openai, cohere, rerank, tei, search, documents, collections, system, console)

# A representation that does not walk through all of a large value.
_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring = 2, 4, 4, 60


def application(settings: GatewaySettings, upstream: Upstream) -> FastAPI:
    """The routes of a gateway, which call these services."""
    app = FastAPI(
        title="Sluice",
        version=version("sluice-search"),
        summary="Neural search over HTTP: Sluice's own routes, and those of OpenAI, Cohere, Jina and TEI.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.upstream = upstream
    app.state.settings = settings
    app.state.is_ready = False
    for shape in _SHAPES:
        app.include_router(shape.router)
    app.add_exception_handler(SluiceError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _defect)
    return app


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, SluiceError)
    return error_response(error, request.scope["path"])


async def _invalid(request: Request, error: Exception) -> Response:
    """A request of the wrong shape, told like one that a service refuses."""
    assert isinstance(error, RequestValidationError)
    found: dict[str, list[str]] = {}
    for item in error.errors():
        found.setdefault(_path(item["loc"]), []).append(_expected(item["msg"], item.get("input")))
    violations = [Violation(field, " or ".join(dict.fromkeys(expected))) for field, expected in found.items()]
    message = f"{violations[0].field}: {violations[0].description}"
    return error_response(InvalidRequest(message, violations=violations), request.scope["path"])


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path']}: {error.detail}"
    return error_response(Refused(error.status_code, message), request.scope["path"])


async def _defect(request: Request, error: Exception) -> Response:
    """The caller learns that it is our fault; the log gets the traceback from the server."""
    return error_response(BackendFailed("internal error"), request.scope["path"])


def _expected(message: str, given: object) -> str:
    """The words of pydantic in ours: `expected a valid string, got 3`."""
    said = message.removeprefix("Input should be ")
    return f"expected {said}, got {_SHORT.repr(given):.60}" if said != message else f"{message[0].lower()}{message[1:]}"


def _path(location: tuple[str | int, ...]) -> str:
    """`documents[3]` of ("body", "documents", "list[str]", 3): without what pydantic adds for each type it tried."""
    path = ""
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]" if path else ""
        elif part.isidentifier() and part not in ("str", "int"):
            path += f".{part}" if path else part
    return path or "body"
