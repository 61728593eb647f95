"""Documents that were refused while others were stored: counted, kept up to a limit, shown at the end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sluice.cli.console import CommandFailed, err

_SHOWN: Final = 10
# So that memory stays bounded when every line of a large file is wrong.
_KEPT: Final = 1000


class DocumentsRefused(CommandFailed):
    """A run that stored all documents but those that were refused."""

    exit_status = 3


@dataclass(frozen=True)
class Refusal:
    """A document that was refused, or a line that is no document."""

    reason: str
    message: str
    document_id: str = ""
    line: int = 0
    """Number of the line, from 1, of what is no document; 0 for documents."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else f"{self.document_id!r}: {self.message}"

    def described(self) -> dict[str, Any]:
        """Return the refusal as JSON has it: with `line` or with `document_id`."""
        return {name: value for name, value in asdict(self).items() if value or name == "message"}


@dataclass
class Refusals:
    """How many documents were refused, and the first 1,000 of them."""

    count: int = 0
    first: list[Refusal] = field(default_factory=list)

    def add(self, *refusals: Refusal) -> None:
        """Count refusals, and keep the first ones."""
        self.count += len(refusals)
        self.first += refusals[: max(0, _KEPT - len(self.first))]

    def described(self) -> dict[str, Any]:
        """Return the count and the first refusals as JSON has them."""
        return {"failed": self.count, "failures": described(self.first)}

    def show(self) -> None:
        """Print the first refusals and how many more there are."""
        for refusal in self.first[:_SHOWN]:
            err.print(f"  refused: {refusal}", markup=False, style="red", soft_wrap=True)
        if self.count > _SHOWN:
            err.print(f"  and {self.count - _SHOWN:,} more", style="red")


def described(refusals: Sequence[Refusal]) -> list[dict[str, Any]]:
    """Return refusals as JSON has them."""
    return [one.described() for one in refusals]
