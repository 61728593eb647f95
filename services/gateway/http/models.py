"""What the bodies of requests share."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast

T = TypeVar("T")


class _FirstError(FailFast):
    """`FailFast` with the hash that a type in a union needs."""

    __hash__ = object.__hash__


Many = Annotated[list[T], _FirstError()]
"""A list of any length. Validation stops at the first invalid item, because each error takes a kilobyte."""


class Body(BaseModel):
    """A JSON body. What a shape's clients send and nobody here needs is ignored, as their own servers do."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)
