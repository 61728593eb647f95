"""What people read: the two streams, and failures with what to do next."""

from collections.abc import Iterable
from typing import ClassVar, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sluice.errors import InvalidRequest, SluiceError

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)

_NEXT_BY_REASON: Final = {
    "UNKNOWN_COLLECTION": "`sluice collections list` shows those there are; `sluice index FILE --create` makes one",
    "UNKNOWN_PIPELINE": "`sluice pipelines` shows those there are",
    "UNKNOWN_MODEL": "`sluice models` shows those there are",
    "COLLECTION_EXISTS": "choose another --collection, or drop it first with `sluice collections drop`",
    "MODEL_MISMATCH": "index into a new --collection, or serve the model that this one was made with",
    "STORAGE_UNWRITABLE": "free some space, or check the rights of the data folder; what is stored is safe",
    "OVERLOADED": "the system is busy: try again, or give it longer with --timeout (--patience when indexing)",
}
_NEXT_BY_CODE: Final = {
    "UNAVAILABLE": "is the system running? `sluice status` tells, `sluice up` starts it, --address says where it is",
    "DEADLINE_EXCEEDED": "--timeout gives it longer",
    "UNAUTHENTICATED": "SLUICE_TOKEN holds the token to show; `sluice token` makes one for the servers to know",
    "PERMISSION_DENIED": "ask who runs the servers for a token that may",
    "INTERNAL": "the server's log tells more",
}


class CommandFailed(Exception):
    """A command that cannot go on; the message says why and what to do next. Not a defect."""

    exit_status: ClassVar[int] = 1


def print_failure(error: SluiceError | CommandFailed) -> None:
    """Print what was wrong, each field that is, and what to do next."""
    if isinstance(error, CommandFailed):
        _print("error", str(error), "bold red")
        return
    _print("error", error.message, "bold red")
    if isinstance(error, InvalidRequest) and len(error.violations) > 1:
        for violation in error.violations:
            _print("  field", f"{violation.field}: {violation.description}", "red")
    if request_id := error.metadata.get("request_id"):
        _print("  in the server's log", f"request_id {request_id}", "dim")
    if next_step := _NEXT_BY_REASON.get(error.reason_name) or _NEXT_BY_CODE.get(error.code.name):
        _print("next", next_step, "bold")


def size_words(size: int) -> str:
    """A number of bytes, short: 1.5 GiB."""
    number, units = float(size), iter(("B", "KiB", "MiB", "GiB"))
    for unit in units:
        if number < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """Rows under the names of their columns."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def _print(label: str, text: str, style: str) -> None:
    err.print(Text.assemble((f"{label}: ", style), text), soft_wrap=True)
