"""`sluice search`: results for people, or as JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from sluice.cli import options
from sluice.cli.access import access
from sluice.cli.console import out
from sluice.client import MetadataValue, Result, SearchAnswer, SearchClient, StageReport

_PASSAGE_LINES: Final = 5


def search(
    query: Annotated[str, typer.Argument(help="Text to search for.", show_default=False)],
    collection: options.Collection = options.DEFAULT_COLLECTION,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=options.MOST, help="Number of results.")] = 5,
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="Pipeline; empty: the server's default.")] = "",
    filter: options.Filter = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="TEXT",
            help="Another wording of the query, to find more; up to 7.",
            show_default=False,
        ),
    ] = None,
    by_parent: Annotated[
        bool, typer.Option("--by-parent", help="In a collection of chunks: only the best chunk of each document.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Print whole texts, not their first 5 lines.")] = False,
    as_json: options.Json = False,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    address: options.Address = options.DEFAULT_ADDRESS,
) -> None:
    """Search a collection.

    Below the results is a line with the time and the counts of each stage, and how
    many texts its model truncated. If a stage was skipped or cut short, a line says
    which and why.

    [bold]Examples[/]

      sluice search "how do I wait for several tasks?"

      sluice search "read a file line by line" -k 3 --filter "kind == 'function' and module in ('io', 'os')"

      sluice search "stop a task" --also "cancel a coroutine"

      sluice search "sort by key" --pipeline fast --json | jq .results[0].document.title
    """
    with SearchClient(address, timeout_s=timeout, **access()) as client:
        answer = client.search(
            collection,
            query,
            top_k=top_k,
            pipeline=pipeline,
            filter=filter,
            more_queries=also or (),
            group_by_parent=by_parent,
        )
    if as_json:
        print(json.dumps(asdict(answer), ensure_ascii=False, default=_json_value, indent=2))
    else:
        out.print(render(answer, full=full))


def render(answer: SearchAnswer, *, full: bool = False) -> RenderableType:
    """Return the results, and a line with the work of each stage."""
    results = [_render_result(rank, result, full=full) for rank, result in enumerate(answer.results, start=1)]
    if not results:
        results = [Text("nothing found", style="yellow")]
    return Group(*results, *_degradation(answer), _stages_line(answer))


def stage_words(stage: StageReport) -> str:
    """Return the time and the counts of a stage: `rerank 18.4 ms, 50 → 10`."""
    counts = f"{stage.given_count} → {stage.kept_count}" if stage.given_count else f"{stage.kept_count} found"
    words = f"{stage.name} {1000 * stage.duration_s:.1f} ms"
    if stage.given_count or stage.kept_count:
        words += f", {counts}"
    if stage.truncated_count:
        words += f", {stage.truncated_count} truncated"
    return words if stage.status == "ok" else f"{words} ({stage.status})"


def _render_result(rank: int, result: Result, *, full: bool) -> RenderableType:
    document = result.document
    head = Text.assemble(
        (f"{rank:>2}", "bold cyan"), f"  {result.score:.4f}  ", (document.title or document.document_id, "bold")
    )
    if document.title and document.title != document.document_id:
        head.append(f"  {document.document_id}", style="dim")
    lines = document.text.strip().splitlines()
    shown = lines if full else lines[:_PASSAGE_LINES]
    passage = Text("\n".join(shown).rstrip() + ("" if len(shown) == len(lines) else " …"))
    parts: list[RenderableType] = [head, Padding(passage, (0, 2, 0, 4))] if lines else [head]
    if document.metadata:
        words = " · ".join(f"{name}: {_word(value)}" for name, value in sorted(document.metadata.items()))
        parts.append(Padding(Text(words, style="dim"), (0, 2, 0, 4)))
    return Padding(Group(*parts), (0, 0, 1, 0))


def _degradation(answer: SearchAnswer) -> Iterable[RenderableType]:
    """Yield a line for each stage that did not do all its work, and one with the coverage."""
    for stage in answer.stages:
        if stage.status in {"skipped", "partial"}:
            yield Text(f"degraded: {stage.name} {stage.status}: {stage.reason}", style="yellow")
    if answer.degraded:
        yield Text(f"coverage: {answer.coverage:.0%} of the planned work", style="yellow")


def _stages_line(answer: SearchAnswer) -> Text:
    stages = " · ".join(stage_words(stage) for stage in answer.stages)
    return Text(f"{stages} · {1000 * answer.duration_s:.1f} ms in all ({answer.pipeline})", style="dim")


def _word(value: MetadataValue) -> str:
    if isinstance(value, str | float | bool | datetime):
        return (
            value.isoformat() if isinstance(value, datetime) else f"{value:g}" if type(value) is float else str(value)
        )
    return ", ".join(_word(element) for element in value)


def _json_value(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"expected a JSON value, got {type(value).__name__}")
