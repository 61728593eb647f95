"""The command."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text
from sluice.cli import options
from sluice.cli.console import CommandFailed, out

from services.local.doctor.facts import gather
from services.local.doctor.findings import Finding, findings

_STYLES: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


def doctor(
    address: options.Address = options.DEFAULT_ADDRESS,
    embedding: options.EmbeddingAddress = options.DEFAULT_EMBEDDING,
    retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL,
    reranking: options.RerankingAddress = options.DEFAULT_RERANKING,
    metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=HOST:PORT", help="Read a server's metrics too: versions, disk, clock. May repeat."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--check-ca", envvar="SLUICE_TLS_CA", metavar="FILE", help="Check certificates against these."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Look at a running system, and say what is wrong and what to do. Exit code 1 when something is.

    [bold]Examples[/]

      sluice doctor

      sluice doctor --metrics retrieval=127.0.0.1:9102 --json
    """
    places = {"orchestrator": address, "embedding": embedding, "retrieval": retrieval, "reranking": reranking}
    found = findings(gather(places, _pairs(metrics or []), ca), datetime.now(UTC))
    if as_json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False))
    else:
        _print(found)
    if any(one.level == "problem" for one in found):
        raise typer.Exit(1)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """Addresses by name. Raises CommandFailed."""
    pairs = [one.partition("=") for one in given]
    if wrong := [
        one for one, (name, equals, place) in zip(given, pairs, strict=True) if not (name and equals and place)
    ]:
        raise CommandFailed(f"--metrics: expected NAME=HOST:PORT, got {wrong[0]!r}")
    return {name: place for name, _, place in pairs}


def _print(found: Sequence[Finding]) -> None:
    width = max(len(one.about) for one in found)
    for one in found:
        sign, style = _STYLES[one.level]
        out.print(Text.assemble((f"{sign} ", style), (f"{one.about:<{width}}  ", "bold"), one.text), soft_wrap=True)
        if one.next:
            out.print(Text(f"  {'':<{width}}  → {one.next}", style="dim"), soft_wrap=True)
    counts = {level: sum(one.level == level for one in found) for level in _STYLES}
    out.print(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} well")
