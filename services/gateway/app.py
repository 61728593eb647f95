"""The FastAPI application: all routes, and the responses to the errors that they raise."""

from importlib.metadata import version
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sluice.errors import BackendFailed, SluiceError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.gateway.http.errors import HttpError, error_response
from services.gateway.http.request_validation import invalid_request
from services.gateway.routes import cohere, collections, console, documents, health, jina, openai, search, system, tei
from services.gateway.settings import GatewaySettings
from services.gateway.upstream.stubs import Upstream

_ROUTES: Final = (health, openai, cohere, jina, tei, search, documents, collections, system, console)


def create_app(settings: GatewaySettings, upstream: Upstream) -> FastAPI:
    """Return the application, whose routes call `upstream`."""
    app = FastAPI(
        title="Sluice",
        version=version("sluice-search"),
        summary="Neural search over HTTP: Sluice's own routes, and those of OpenAI, Cohere, Jina and TEI.",
        docs_url=None,  # FastAPI's pages of documentation load scripts from other servers.
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.upstream = upstream
    app.state.settings = settings
    app.state.is_ready = False
    for routes in _ROUTES:
        app.include_router(routes.router)
    app.add_exception_handler(SluiceError, _sluice_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)
    return app


async def _sluice_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SluiceError)
    return error_response(error, request.scope["path"])


async def _validation_error(request: Request, error: Exception) -> Response:
    """Return the response to a request that FastAPI rejected, in the format of a rejection by a service."""
    assert isinstance(error, RequestValidationError)
    return error_response(invalid_request(error), request.scope["path"])


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path']}: {error.detail}"
    return error_response(HttpError(error.status_code, message), request.scope["path"])


async def _unexpected_error(request: Request, error: Exception) -> Response:
    """Return an internal error without details. uvicorn logs the traceback."""
    return error_response(BackendFailed("internal error"), request.scope["path"])
