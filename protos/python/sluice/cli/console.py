"""Output for people: the two streams, tables, and failures with what to do next."""

from collections.abc import Iterable
from typing import ClassVar, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sluice.errors import InvalidRequest, SluiceError

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)

_NEXT_BY_REASON: Final = {
    "UNKNOWN_COLLECTION": "`sluice collections list` shows the collections; `sluice index FILE --create` creates one",
    "UNKNOWN_PIPELINE": "`sluice pipelines` shows the pipelines",
    "UNKNOWN_MODEL": "`sluice models` shows the models",
    "COLLECTION_EXISTS": "choose another --collection, or drop it first with `sluice collections drop`",
    "MODEL_MISMATCH": "index into a new --collection, or serve the model that this one was indexed with",
    "STORAGE_UNWRITABLE": "free some space, or check the permissions of the data folder; stored documents are safe",
    "OVERLOADED": "the system is busy: try again, or wait longer with --timeout (--patience for `sluice index`)",
}
_NEXT_BY_CODE: Final = {
    "UNAVAILABLE": "check the address and `sluice status`; `sluice up` starts a system",
    "DEADLINE_EXCEEDED": "wait longer with --timeout",
    "UNAUTHENTICATED": "set SLUICE_TOKEN to a token of the servers' token file; `sluice token` makes one",
    "PERMISSION_DENIED": "use a token that allows this; the operator of the servers can make one",
    "INTERNAL": "see the server's log",
}


class CommandFailed(Exception):
    """A failure that the user can act on. The message says what failed and what to do."""

    exit_status: ClassVar[int] = 1


def print_failure(error: SluiceError | CommandFailed) -> None:
    """Print the error, each invalid field, and what to do next."""
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
    """Return a number of bytes in a short form: 1.5 GiB."""
    number, units = float(size), iter(("B", "KiB", "MiB", "GiB"))
    for unit in units:
        if number < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """Return a table of rows under the names of their columns."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def _print(label: str, text: str, style: str) -> None:
    err.print(Text.assemble((f"{label}: ", style), text), soft_wrap=True)
