"""Bases of the models of request and response bodies."""

from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast

T = TypeVar("T")


class _FirstError(FailFast):
    """`FailFast` with the hash that a type in a union needs."""

    __hash__ = object.__hash__


Many = Annotated[list[T], _FirstError()]
"""A list of any length. Validation stops at the first invalid item, because each error takes a kilobyte."""


class Body(BaseModel):
    """A JSON body. Unknown fields are ignored, as by the servers whose APIs the gateway serves."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class ResponseBody(BaseModel):
    """A JSON body of a response. It documents the response in OpenAPI; routes write the JSON without it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def described(body: Any, description: str = "JSON.") -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of a route: the body of status 200."""
    return {200: {"model": body, "description": description}}


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {"description": "An error, in the format of the route's API dialect."}
}
"""The OpenAPI `responses` of all routes of a router."""
