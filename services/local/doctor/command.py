"""The command `sluice doctor`: gather facts, judge them, print the findings."""

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
        typer.Option(metavar="NAME=HOST:PORT", help="Also check the metrics page of a server. Repeatable."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--check-ca",
            envvar="SLUICE_TLS_CA",
            metavar="FILE",
            help="Check certificates against these authorities.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check a running system, and say what is wrong and what to do. The exit code is 1 if there is a problem.

    It checks health, certificates, models, collections, pipelines and versions, and
    searches each collection once.

    [bold]Examples[/]

      sluice doctor

      sluice doctor --metrics retrieval=127.0.0.1:9102 --metrics embedding=127.0.0.1:9101

      sluice doctor --json | jq '.[] | select(.level != "ok")'
    """
    addresses = {"orchestrator": address, "embedding": embedding, "retrieval": retrieval, "reranking": reranking}
    found = findings(gather(addresses, _pairs(metrics or []), ca), datetime.now(UTC))
    if as_json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False))
    else:
        _print(found)
    if any(one.level == "problem" for one in found):
        raise typer.Exit(1)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """Return the addresses by name. Raises CommandFailed."""
    addresses = {}
    for one in given:
        name, _, address = one.partition("=")
        if not (name and address):
            raise CommandFailed(f"--metrics: expected NAME=HOST:PORT, got {one!r}")
        addresses[name] = address
    return addresses


def _print(found: Sequence[Finding]) -> None:
    width = max(len(one.about) for one in found)
    for one in found:
        sign, style = _STYLES[one.level]
        out.print(Text.assemble((f"{sign} ", style), (f"{one.about:<{width}}  ", "bold"), one.text), soft_wrap=True)
        if one.next:
            out.print(Text(f"  {'':<{width}}  → {one.next}", style="dim"), soft_wrap=True)
    counts = {level: sum(one.level == level for one in found) for level in _STYLES}
    out.print(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} ok")
