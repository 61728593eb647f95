"""Collection of all rules that a request breaks, so that one response lists them all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sluice.errors import InvalidRequest, Violation

# A status has room for some hundred. A request of the largest message could break a million rules.
_KEPT: Final = 1024


class Violations:
    """The broken rules of one request, by field.

    A description says what was expected and what was given: `expected 1 to 256 texts, got 0`.
    """

    def __init__(self) -> None:
        self._found: list[Violation] = []
        self._count = 0
        self._metadata: dict[str, object] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str, **numbers: object) -> None:
        """Add a broken rule. `numbers` repeat the numbers of the description in the error's metadata.

        Violations beyond the first 1,024 are only counted.
        """
        self._count += 1
        if self._count > _KEPT:
            return
        self._found.append(Violation(field, description))
        self._metadata.update(numbers)

    def count(self, field: str, given: int, *, low: int, high: int, what: str) -> bool:
        """Return whether a count is in range, and add a violation if it is not.

        Check the items only if it is: the work for a request over a limit must not grow with the request.
        """
        is_in_range = low <= given <= high
        if not is_in_range:
            self.add(field, f"expected {low} to {high:,} {what}, got {given:,}", expected_max=high, given=given)
        return is_in_range

    def limit(self, field: str, given: int, *, low: int, high: int, what: str) -> None:
        """Add a violation if a count is out of range. Raises InvalidRequest immediately if the count is too large.

        Use it for the number of items that are checked next.
        """
        if not self.count(field, given, low=low, high=high, what=what) and given > high:
            self.raise_if_any()

    def text(self, field: str, text: str, *, max_bytes: int) -> None:
        """Add a violation if a text is empty, contains only white space, or is longer than allowed in UTF-8."""
        if not text or text.isspace():
            self.add(field, "expected some text, got none" if not text else "expected some text, got only white space")
        elif len(text) * 4 > max_bytes:
            size = len(text.encode())
            if size > max_bytes:
                description = f"expected at most {max_bytes:,} bytes of UTF-8, got {size:,}"
                self.add(field, description, expected_max=max_bytes, given=size)

    def raise_if_any(self) -> None:
        """Raise InvalidRequest with all violations; the message is that of the first."""
        if self._found:
            first = self._found[0]
            more = f" (and {self._count - 1} more)" if self._count > 1 else ""
            message = f"{first.field}: {first.description}{more}"
            raise InvalidRequest(message, violations=self._found, metadata=self._metadata)


def quote(text: str) -> str:
    """Return the first 80 characters of a text in quotes, for messages.

    The cost does not depend on the text's length.
    """
    return repr(text[:80])


@contextmanager
def validating() -> Iterator[Violations]:
    """Yield an empty collection of violations. Raises InvalidRequest at the end of the block if there are any."""
    violations = Violations()
    yield violations
    violations.raise_if_any()
