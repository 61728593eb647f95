"""Requests of the wrong shape, as the errors of a service that refuses them."""

import reprlib
from typing import Final

from fastapi.exceptions import RequestValidationError
from sluice.errors import InvalidRequest, Violation

# A representation that does not walk through all of a large value.
_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring = 2, 4, 4, 60


def invalid_request(error: RequestValidationError) -> InvalidRequest:
    """Return what FastAPI found wrong, without the request that the error holds."""
    found: dict[str, list[str]] = {}
    for item in error.errors():
        found.setdefault(_path(item["loc"]), []).append(_expected(item["msg"], item.get("input")))
    violations = [Violation(field, " or ".join(dict.fromkeys(expected))) for field, expected in found.items()]
    message = f"{violations[0].field}: {violations[0].description}"
    return InvalidRequest(message, violations=violations)


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
