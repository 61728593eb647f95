"""Collects every rule a request breaks, so that one answer names them all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sluice.errors import InvalidRequest, Violation

# Some hundred fit into a status; a request of the largest message could break a million rules.
_KEPT: Final = 1024


class Violations:
    """What is wrong with one request, field by field.

    A description says what was expected and what was given: `expected 1 to 256 texts, got 0`.
    """

    def __init__(self) -> None:
        self._found: list[Violation] = []
        self._count = 0
        self._metadata: dict[str, object] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str, **numbers: object) -> None:
        """Note a broken rule; `numbers` repeat those of the description for machines.

        Beyond the first _KEPT they are counted alone.
        """
        self._count += 1
        if self._count > _KEPT:
            return
        self._found.append(Violation(field, description))
        self._metadata.update(numbers)

    def count(self, field: str, given: int, *, low: int, high: int, what: str) -> bool:
        """Return whether a count is in range; note it when not.

        Look at the items only when it is: the work of a request that is over a limit must not grow with the request.
        """
        is_in_range = low <= given <= high
        if not is_in_range:
            self.add(field, f"expected {low} to {high:,} {what}, got {given:,}", expected_max=high, given=given)
        return is_in_range

    def limit(self, field: str, given: int, *, low: int, high: int, what: str) -> None:
        """Note it when a count is out of range. Raise InvalidRequest at once when it is too large.

        For the number of items that are looked at next.
        """
        if not self.count(field, given, low=low, high=high, what=what) and given > high:
            self.raise_if_any()

    def text(self, field: str, text: str, *, max_bytes: int) -> None:
        """Note it when a text is empty, only white space, or longer than allowed in UTF-8."""
        if not text or text.isspace():
            self.add(field, "expected some text, got none" if not text else "expected some text, got only white space")
        elif len(text) * 4 > max_bytes:
            size = len(text.encode())
            if size > max_bytes:
                description = f"expected at most {max_bytes:,} bytes of UTF-8, got {size:,}"
                self.add(field, description, expected_max=max_bytes, given=size)

    def raise_if_any(self) -> None:
        """Raise InvalidRequest naming all that was noted; the first is the message."""
        if self._found:
            first = self._found[0]
            more = f" (and {self._count - 1} more)" if self._count > 1 else ""
            message = f"{first.field}: {first.description}{more}"
            raise InvalidRequest(message, violations=self._found, metadata=self._metadata)


def shown(text: str) -> str:
    """Return a text as a message quotes it: the first 80 characters. Costs the same however long the text is."""
    return repr(text[:80])


@contextmanager
def validating() -> Iterator[Violations]:
    """Collect violations in the block, and raise InvalidRequest at its end when there are any."""
    violations = Violations()
    yield violations
    violations.raise_if_any()
