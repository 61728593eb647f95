"""FastAPI's validation errors as InvalidRequest, as if a service had rejected the request."""

import reprlib
from typing import Final

from fastapi.exceptions import RequestValidationError
from sluice.errors import InvalidRequest, Violation

# A representation of a value that stays short, and cheap for large values.
_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring = 2, 4, 4, 60


def invalid_request(error: RequestValidationError) -> InvalidRequest:
    """Return the violations that FastAPI found, without a reference to the request."""
    found: dict[str, list[str]] = {}
    for item in error.errors():
        found.setdefault(_path(item["loc"]), []).append(_expected(item["msg"], item.get("input")))
    violations = [Violation(field, " or ".join(dict.fromkeys(expected))) for field, expected in found.items()]
    message = f"{violations[0].field}: {violations[0].description}"
    return InvalidRequest(message, violations=violations)


def _expected(message: str, given: object) -> str:
    """Return pydantic's message in the style of Sluice: `expected a valid string, got 3`."""
    expected = message.removeprefix("Input should be ")
    if expected == message:
        return f"{message[0].lower()}{message[1:]}"
    return f"expected {expected}, got {_SHORT.repr(given):.60}"


def _path(location: tuple[str | int, ...]) -> str:
    """Return `documents[3]` for ("body", "documents", "list[str]", 3), without the types that pydantic tried."""
    path = ""
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]" if path else ""
        elif part.isidentifier() and part not in ("str", "int"):
            path += f".{part}" if path else part
    return path or "body"
