"""`sluice index` and `sluice delete`: store and delete documents."""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sluice.cli import options
from sluice.cli.access import access
from sluice.cli.console import CommandFailed, err, out
from sluice.cli.refusals import DocumentsRefused, Refusal, Refusals
from sluice.client import Acknowledgement, Chunking, Document, SearchClient, Windows, jsonl
from sluice.client.indexing import DEFAULT_PATIENCE_S
from sluice.errors import SluiceError

_STORED: Final = ("indexed", "unchanged")


class Aggregation(StrEnum):
    """How the dense vectors of windows are combined."""

    MEAN = "mean"
    MAX = "max"


ChunkTokens = Annotated[
    int,
    typer.Option(
        min=0, max=options.MOST, metavar="N", help="Split documents into chunks of up to N tokens; 0: do not."
    ),
]
ChunkOverlap = Annotated[
    int, typer.Option(min=0, max=options.MOST, metavar="N", help="Tokens that consecutive chunks share.")
]
InWindows = Annotated[
    bool, typer.Option("--windows", help="With --create: embed documents over the model's limit in windows.")
]
WindowOverlap = Annotated[
    int, typer.Option(min=0, max=options.MOST, metavar="N", help="With --windows: tokens that windows share.")
]
WindowAggregation = Annotated[
    Aggregation, typer.Option(help="With --windows: how the dense vectors of the windows are combined.")
]


@dataclass
class Tally:
    """The outcomes of the documents of an index run."""

    stored: Counter[str] = field(default_factory=Counter)
    refusals: Refusals = field(default_factory=Refusals)
    truncated: int = 0
    """Indexed documents that the model did not read to the end."""
    dropped_tokens: int = 0
    """Tokens of these documents that the model did not read."""

    @property
    def done(self) -> int:
        """The number of documents that have an outcome."""
        return self.stored.total() + self.refusals.count

    def add(self, acknowledgement: Acknowledgement) -> None:
        """Count the outcome of a document."""
        if acknowledgement.outcome == "failed":
            one = acknowledgement
            self.refusals.add(Refusal(one.reason, one.message, document_id=one.document_id))
        else:
            self.stored[acknowledgement.outcome] += 1
            self.truncated += acknowledgement.dropped_token_count > 0
            self.dropped_tokens += acknowledgement.dropped_token_count

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the first refusals for JSON output."""
        counts = {outcome: self.stored[outcome] for outcome in _STORED}
        return {
            **counts,
            "truncated": self.truncated,
            "dropped_tokens": self.dropped_tokens,
            **self.refusals.to_json(),
        }

    def show_truncation(self) -> None:
        """Print how many documents were truncated, and what to do."""
        if self.truncated:
            err.print(
                f"{self.truncated:,} of {self.stored['indexed']:,} documents are longer than the model reads: "
                f"{self.dropped_tokens:,} tokens were truncated. To embed them too, create another collection "
                "with --chunk-tokens or --windows.",
                style="yellow",
                soft_wrap=True,
            )

    def words(self) -> str:
        """Return `5,690 indexed, 3 unchanged, 0 failed`."""
        counts = [*((outcome, self.stored[outcome]) for outcome in _STORED), ("failed", self.refusals.count)]
        return ", ".join(f"{count:,} {outcome}" for outcome, count in counts)


def index(
    file: Annotated[
        Path, typer.Argument(help="File of JSON lines; - reads standard input.", allow_dash=True, show_default=False)
    ],
    collection: options.Collection = options.DEFAULT_COLLECTION,
    create: Annotated[bool, typer.Option("--create", help="Create the collection if it does not exist.")] = False,
    filterable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TYPE",
            help="With --create: a metadata field that filters can use. Repeatable. "
            "TYPE is string, number, bool, timestamp or list.",
        ),
    ] = None,
    chunk_tokens: ChunkTokens = 0,
    chunk_overlap: ChunkOverlap = 0,
    windows: InWindows = False,
    window_overlap: WindowOverlap = 0,
    window_aggregation: WindowAggregation = Aggregation.MEAN,
    patience: options.Patience = DEFAULT_PATIENCE_S,
    as_json: options.Json = False,
    address: options.Address = options.DEFAULT_ADDRESS,
) -> None:
    """Index documents from a file of JSON lines.

    A line is {"id": …, "title": …, "text": …, "metadata": {…}}. The identifier can
    also be "_id", as in BEIR. You can repeat a run at any time: documents that
    have not changed are skipped.

    Documents that are longer than the model reads are truncated, and counted at the
    end. --chunk-tokens stores them in parts instead, --windows embeds them in parts.

    A rejected document or an invalid line does not stop the run. All others are
    stored, and the first rejections are listed at the end. The exit code is 0 if
    all documents are stored, 3 if some were rejected, 1 if the run stopped.

    [bold]Examples[/]

      sluice index corpus.jsonl --create --filterable year=number --filterable lang=string

      sluice index books.jsonl --collection books --create --chunk-tokens 200 --chunk-overlap 20

      sluice index papers.jsonl --collection papers --create --windows --window-overlap 32

      zcat corpus.jsonl.gz | sluice index - --collection news --create
    """
    if window_overlap and not windows:
        raise typer.BadParameter("give --windows too", param_hint="--window-overlap")
    fields = _fields(filterable or [])
    timestamps = frozenset(name for name, kind in fields.items() if kind == "timestamp")
    tally = Tally()

    total = _line_count(file)
    with SearchClient(address, **access()) as client, _open(file) as lines:
        acknowledgements = client.index(
            collection,
            _documents(lines, timestamps, tally),
            create=create,
            filterable_fields=fields,
            chunking=Chunking(chunk_tokens, chunk_overlap) if chunk_tokens or chunk_overlap else None,
            windows=Windows(window_overlap, window_aggregation.value) if windows else None,
            patience_s=patience,
            on_retry=_retry_printer(),
        )
        follow(acknowledgements, tally, total=total, as_json=as_json)
    if tally.refusals.count:
        raise DocumentsRefused(f"{tally.refusals.count:,} documents were rejected; all others are stored")


def _documents(lines: Iterable[str], timestamps: frozenset[str], tally: Tally) -> Iterator[Document]:
    """Yield the documents of lines, and count the invalid lines."""
    for item in jsonl.documents(lines, timestamps=timestamps):
        if isinstance(item, Document):
            yield item
        else:
            tally.refusals.add(Refusal("INVALID_REQUEST", item.problem, line=item.line))


def _retry_printer() -> Callable[[SluiceError, float], None]:
    """Return a function that prints why a run waits, but not the same reason twice in a row."""
    last = ""

    def print_reason(error: SluiceError, wait_s: float) -> None:
        nonlocal last
        if error.message != last:
            err.print(f"  waiting: {error.message}", markup=False, style="yellow", soft_wrap=True)
        last = error.message

    return print_reason


def follow(
    acknowledgements: Iterator[Acknowledgement], tally: Tally, *, total: int | None, as_json: bool = False
) -> None:
    """Show a progress bar while documents are acknowledged, then the tally and the first refusals.

    total  number of documents, None if unknown

    If the acknowledgements raise an error, the tally is shown and the error is raised.
    """
    progress = _progress()
    task = progress.add_task("indexing", total=total, rate="", failed=0)
    try:
        with progress:
            for ack in acknowledgements:
                tally.add(ack)
                speed = progress.tasks[task].finished_speed or progress.tasks[task].speed
                rate = f"{speed:,.0f}/s" if speed else ""
                progress.update(task, completed=tally.done, rate=rate, failed=tally.refusals.count)
    finally:
        elapsed_s = progress.tasks[task].elapsed or 0.0
        if as_json:
            print(json.dumps({**tally.to_json(), "duration_s": round(elapsed_s, 3)}, indent=2))
        else:
            out.print(f"{tally.words()} in {elapsed_s:.1f} s")
        tally.show_truncation()
        tally.refusals.show()


def delete(
    document_ids: Annotated[list[str] | None, typer.Argument(help="Identifiers.", show_default=False)] = None,
    collection: options.Collection = options.DEFAULT_COLLECTION,
    filter: options.Filter = None,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    address: options.Address = options.DEFAULT_ADDRESS,
) -> None:
    """Delete documents, by id or by filter.

    [bold]Examples[/]

      sluice delete doc-1 doc-2

      sluice delete --filter "year < 2000"
    """
    if bool(document_ids) == bool(filter):
        raise typer.BadParameter("give identifiers or --filter, not both")
    with SearchClient(address, timeout_s=timeout, **access()) as client:
        out.print(f"{client.delete(collection, document_ids or (), filter=filter):,} deleted")


def _fields(filterable: list[str]) -> dict[str, str]:
    """Return the types of fields by name, from texts such as `year=number`. The server checks the types."""
    fields = {}
    for item in filterable:
        name, equals, kind = item.partition("=")
        if not (name and equals and kind):
            raise typer.BadParameter(f"expected NAME=TYPE, got {item!r}", param_hint="--filterable")
        fields[name] = kind
    return fields


def _open(file: Path) -> AbstractContextManager[TextIO]:
    """Return the open file, or standard input for `-`. Raises CommandFailed.

    Bytes that are not UTF-8 become lone surrogates, so that only the document with them is rejected.
    """
    if str(file) == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
        return nullcontext(sys.stdin)
    try:
        return file.open(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from error


def _line_count(file: Path) -> int | None:
    """Return the number of lines for the progress bar, None if the file can be read only once."""
    if str(file) == "-" or not file.is_file():
        return None
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
    )
