"""The documents that an index run could not store: their count, and the first of them to show at the end."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sluice.cli.console import CommandFailed, err

_SHOWN: Final = 10
# Bounds the memory when every line of a large file is invalid.
_KEPT: Final = 1000


class DocumentsRefused(CommandFailed):
    """A run in which some documents were rejected. All others are stored."""

    exit_status = 3


@dataclass(frozen=True)
class Refusal:
    """A document that was rejected, or a line that is not a document."""

    reason: str
    message: str
    document_id: str = ""
    line: int = 0
    """The number of the line, from 1, if it is not a document; 0 for documents."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else f"{self.document_id!r}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """Return the refusal for JSON output: with `line` or with `document_id`."""
        return {name: value for name, value in asdict(self).items() if value or name == "message"}


@dataclass
class Refusals:
    """The number of rejected documents, and the first 1,000 of them."""

    count: int = 0
    first: list[Refusal] = field(default_factory=list)

    def add(self, *refusals: Refusal) -> None:
        """Count refusals, and keep the first 1,000."""
        self.count += len(refusals)
        self.first += refusals[: max(0, _KEPT - len(self.first))]

    def to_json(self) -> dict[str, Any]:
        """Return the count and the first refusals for JSON output."""
        return {"failed": self.count, "failures": [one.to_json() for one in self.first]}

    def show(self) -> None:
        """Print the first refusals and how many more there are."""
        for refusal in self.first[:_SHOWN]:
            err.print(f"  rejected: {refusal}", markup=False, style="red", soft_wrap=True)
        if self.count > _SHOWN:
            err.print(f"  and {self.count - _SHOWN:,} more", style="red")
