"""The static files of the console, with headers that allow browsers to run only these files.

Rule: no page of the console contains inline scripts or styles, so the Content-Security-Policy needs no exception.
"""

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

router = APIRouter(include_in_schema=False)

_FOLDER: Final = Path(__file__).parents[1] / "console"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Listed at the start, so that a path in a request never reaches the file system.
_FILES: Final = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@router.get("/")
async def page() -> Response:
    """Return the page of the console."""
    return _file("index.html")


@router.get("/console/{name:path}")
async def file(name: str) -> Response:
    """Return a file of the console."""
    return _file(name)


def _file(name: str) -> Response:
    if name not in _FILES:
        raise HTTPException(404, "no such file")
    path = _FILES[name]
    return FileResponse(path, headers=_HEADERS, media_type=_TYPES[path.suffix])
