"""JSON answers. Vectors are the hot path: orjson writes a float32 row without a Python object for each number."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.responses import Response

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z


def json_bytes(value: Any) -> bytes:
    """The JSON of a value that may hold numpy arrays, dataclasses and moments."""
    return orjson.dumps(value, option=_OPTIONS)


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(json_bytes(value), status, headers, media_type="application/json")
