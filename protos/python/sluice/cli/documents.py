"""`sluice index` and `sluice delete`."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TextIO

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
from sluice.client import Acknowledgement, Chunking, Document, SearchClient, jsonl

_SHOWN_FAILURES: Final = 10


@dataclass
class Tally:
    """What happened to the documents of an index run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Documents with an outcome."""
        return self.outcomes.total()

    def note(self, outcome: str, failure: str = "") -> None:
        """Count an outcome; keep the first failures to show."""
        self.outcomes[outcome] += 1
        if failure and len(self.failures) < _SHOWN_FAILURES:
            self.failures.append(failure)

    def words(self) -> str:
        """`5,690 indexed, 3 unchanged, 0 failed`."""
        return ", ".join(f"{self.outcomes[outcome]:,} {outcome}" for outcome in ("indexed", "unchanged", "failed"))


def index(
    file: Annotated[
        Path, typer.Argument(help="Lines of JSON; - reads standard input.", allow_dash=True, show_default=False)
    ],
    collection: options.Collection = options.DEFAULT_COLLECTION,
    create: Annotated[bool, typer.Option("--create", help="Create the collection when it is not there.")] = False,
    filterable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TYPE",
            help="With --create: a metadata field that filters may use; repeatable. "
            "TYPE is string, number, bool, timestamp or list.",
        ),
    ] = None,
    chunk_tokens: Annotated[
        int, typer.Option(min=0, metavar="N", help="Store chunks of at most N tokens; 0 stores whole documents.")
    ] = 0,
    chunk_overlap: Annotated[
        int, typer.Option(min=0, metavar="N", help="Tokens that a chunk shares with the one before.")
    ] = 0,
    patience: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="How long to try when nothing is acknowledged.")
    ] = 60.0,
    address: options.Address = options.DEFAULT_ADDRESS,
) -> None:
    """Index documents from a file of JSON lines.

    A line is {"id": …, "title": …, "text": …, "metadata": {…}}; BEIR's "_id" is read too. Indexing again is harmless:
    documents that did not change cost no model work.

    [bold]Examples[/]

      sluice index corpus.jsonl --create --filterable year=number --filterable lang=string

      sluice index books.jsonl --collection books --create --chunk-tokens 200 --chunk-overlap 20

      zcat corpus.jsonl.gz | sluice index - --collection news --create
    """
    fields = _fields(filterable or [])
    timestamps = frozenset(name for name, kind in fields.items() if kind == "timestamp")
    tally = Tally()

    def documents(lines: Iterable[str]) -> Iterator[Document]:
        for item in jsonl.documents(lines, timestamps=timestamps):
            if isinstance(item, Document):
                yield item
            else:
                tally.note("failed", f"line {item.line}: {item.problem}")

    total = _line_count(file)
    with SearchClient(address, **access()) as client, _opened(file) as lines:
        acknowledgements = client.index(
            collection,
            documents(lines),
            create=create,
            filterable_fields=fields,
            chunking=Chunking(chunk_tokens, chunk_overlap) if chunk_tokens or chunk_overlap else None,
            patience_s=patience,
        )
        follow(acknowledgements, tally, total=total)
    if tally.outcomes["failed"]:
        raise CommandFailed(f"{tally.outcomes['failed']:,} documents failed; the others are on disk")


def follow(acknowledgements: Iterator[Acknowledgement], tally: Tally, *, total: int | None) -> None:
    """Show a progress bar while documents are acknowledged, and then the tally and the first failures.

    total  documents to come, when known

    Raises what the acknowledgements raise, after the tally of what was done.
    """
    progress = _progress()
    task = progress.add_task("indexing", total=total, rate="", failed=0)
    try:
        with progress:
            for ack in acknowledgements:
                tally.note(ack.outcome, f"{ack.document_id!r}: {ack.message}" if ack.outcome == "failed" else "")
                speed = progress.tasks[task].finished_speed or progress.tasks[task].speed
                rate = f"{speed:,.0f}/s" if speed else ""
                progress.update(task, completed=tally.done, rate=rate, failed=tally.outcomes["failed"])
    finally:
        out.print(f"{tally.words()} in {progress.tasks[task].elapsed or 0:.1f} s")
        for failure in tally.failures:
            err.print(f"  failed: {failure}", markup=False, style="red", soft_wrap=True)


def delete(
    document_ids: Annotated[list[str] | None, typer.Argument(help="Ids of documents.", show_default=False)] = None,
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
        raise typer.BadParameter("give ids, or --filter, and not both")
    with SearchClient(address, timeout_s=timeout, **access()) as client:
        out.print(f"{client.delete(collection, document_ids or (), filter=filter):,} deleted")


def _fields(filterable: list[str]) -> dict[str, str]:
    """`["year=number"]` as a dict; the server knows the types."""
    fields = {}
    for item in filterable:
        name, equals, kind = item.partition("=")
        if not (name and equals and kind):
            raise typer.BadParameter(f"expected NAME=TYPE, got {item!r}", param_hint="--filterable")
        fields[name] = kind
    return fields


def _opened(file: Path) -> AbstractContextManager[TextIO]:
    """The file, or standard input for `-`. Raises CommandFailed."""
    if str(file) == "-":
        return nullcontext(sys.stdin)
    try:
        return file.open(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from error


def _line_count(file: Path) -> int | None:
    """How many lines a file has, so that the bar knows its end; None for what can be read only once."""
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
