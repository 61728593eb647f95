"""Skipping of tests whose real component is not installed on this machine."""

import os
from typing import TypeVar

import pytest

T = TypeVar("T")


def require(found: T | None, message: str) -> T:
    """Return `found`; if it is None or false, skip the test. In CI, fail instead.

    `message` says what is missing and how to install it.
    """
    if not found:
        assert os.environ.get("CI") != "true", message
        pytest.skip(message)
    return found
