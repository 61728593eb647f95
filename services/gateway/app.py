"""The routes, joined; and what becomes of what they raise."""

from importlib.metadata import version
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sluice.errors import BackendFailed, SluiceError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.gateway.errors import Refused, error_response
from services.gateway.request_validation import unfit_shape
from services.gateway.routes import cohere, collections, console, documents, health, openai, rerank, search, system, tei
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Upstream

_SHAPES: Final = (health, openai, cohere, rerank, tei, search, documents, collections, system, console)


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
    return error_response(unfit_shape(error), request.scope["path"])


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path']}: {error.detail}"
    return error_response(Refused(error.status_code, message), request.scope["path"])


async def _defect(request: Request, error: Exception) -> Response:
    """The caller learns that it is our fault; the log gets the traceback from the server."""
    return error_response(BackendFailed("internal error"), request.scope["path"])
