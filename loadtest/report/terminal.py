"""Terminal output: a run in progress, and tables of results."""

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from sluice.cli.console import err, out

from loadtest.load.calls import OK, Call, Summary, percentile_s
from loadtest.load.run import Outcome
from loadtest.report import writer

# Number of latest calls that the live figures cover.
_RECENT: Final = 500
_WIDE: Final = 160


class LiveWatcher:
    """Shows each part of a run as a bar with the figures of its latest calls."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=err,
        )
        self._task: TaskID | None = None
        self._recent: deque[Call] = deque(maxlen=_RECENT)
        self._count = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str, duration_s: float) -> None:
        """Show a bar for a part of the run."""
        self._recent.clear()
        self._count = 0
        self._task = self._progress.add_task(name, total=duration_s, figures="")

    def note(self, calls: Sequence[Call], now_s: float) -> None:
        """Advance the bar and update the figures."""
        assert self._task is not None
        self._recent.extend(calls)
        self._count += len(calls)
        p99 = percentile_s((call.latency_s for call in self._recent if call.is_accepted), 99)
        bad = sum(call.code != OK for call in self._recent)
        shown = f"{1000 * p99:.0f} ms" if p99 else "-"
        figures = f"{self._count} calls, p99 {shown}, {bad / max(len(self._recent), 1):.1%} errors"
        self._progress.update(self._task, completed=max(now_s, 0), figures=figures)

    def end(self, summaries: Sequence[Summary]) -> None:
        """Mark the part as done."""
        assert self._task is not None
        total = self._progress.tasks[self._task].total
        self._progress.update(self._task, completed=total)


def show(outcome: Outcome) -> None:
    """Print the results of a run."""
    if outcome.capacity is not None:
        out.print(f"capacity: [bold]{outcome.capacity:.1f}[/] calls/s")
    show_table(writer.COLUMNS, [writer.row(one) for one in outcome.summaries])
    codes = {code for one in outcome.summaries for code in one.codes} - {OK}
    for one in outcome.summaries:
        counted = ", ".join(f"{code} {count}" for code, count in one.codes.items() if code in codes)
        if counted:
            out.print(f"{one.phase}/{one.workload}: {counted}", style="yellow")


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table. All columns except the first two are numbers."""
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index < 2 else "right", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    # Wrapped lines are better than truncated figures.
    Console(file=out.file, width=max(out.width, _WIDE)).print(table)


def write_json(path: Path, record: Any) -> None:
    """Write a record as JSON, and print its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    err.print(f"figures: {path}", style="dim")
