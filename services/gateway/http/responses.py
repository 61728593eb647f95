"""JSON responses. orjson writes a float32 vector without creating a Python object for each number."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.responses import Response

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z


def json_bytes(value: Any) -> bytes:
    """Return the JSON of a value, which may contain numpy arrays, dataclasses and datetimes."""
    return orjson.dumps(value, option=_OPTIONS)


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(json_bytes(value), status, headers, media_type="application/json")
