"""`sluice up` and `sluice down`: start and stop a system on this machine."""

import signal
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, NoReturn

import typer
from sluice.cli.console import CommandFailed, err, out

from services.local.options import DEFAULT_HOME, DEFAULT_VARIANT, Home, Port, Variant
from services.local.plan import DEFAULT_PORT, Plan
from services.local.processes import Process, running, start, stop

_MODULES: Final = ("faiss", "numpy", "onnxruntime", "prometheus_client", "pydantic_settings", "tokenizers", "yaml")
_POLL_S: Final = 0.5


def up(
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Bundle of the bi-encoder, NAME/VERSION. The default is the only one in `bundles` of the home folder.",
        ),
    ] = None,
    reranker: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Bundle of the reranker. The default is the bi-encoder's bundle, by late interaction.",
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    port: Port = DEFAULT_PORT,
    pipelines: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML file of pipelines.")] = None,
    variant: Variant = DEFAULT_VARIANT,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Leave the system running; `sluice down` stops it.")
    ] = False,
) -> None:
    """Start the four services on this machine, and the gateway with its console if it is installed.

    The command runs until ^C or SIGTERM, and then stops the services. With
    --detach it returns as soon as all are healthy.

    [bold]Examples[/]

      sluice up --bundle ~/.sluice/bundles/all-MiniLM-L6-v2/1

      sluice up --bundle bundles/e5/1 --reranker bundles/ms-marco/1 --detach

      sluice up --variant int8 --pipelines pipelines.yaml
    """
    home = home.expanduser().absolute()
    bundle = bundle or _only_bundle(home)
    plan = Plan(
        home, bundle.absolute(), (reranker or bundle).absolute(), port=port, pipelines=pipelines, variant=variant
    )
    processes = start_system(plan)
    if detach:
        out.print("running; `sluice down` stops it")
        return
    try:
        out.print("running; ^C stops it")
        _wait(processes)
    except KeyboardInterrupt:
        pass
    finally:
        err.print("stopping")
        stop(processes, home)


def down(home: Home = DEFAULT_HOME) -> None:
    """Stop the system that `sluice up` or `sluice demo` left running.

    [bold]Examples[/]

      sluice down

      sluice down --home /srv/sluice
    """
    home = home.expanduser().absolute()
    processes = running(home)
    stop(processes, home)
    out.print("stopped" if processes else "nothing was running")


def start_system(plan: Plan) -> list[Process]:
    """Start the services and print a line for each as it becomes healthy. Raises CommandFailed."""
    _check(plan)
    # SIGTERM ends the command as ^C does, so that the services are stopped.
    signal.signal(signal.SIGTERM, _exit)
    processes = []
    began = time.monotonic()
    for process in start(plan):
        out.print(f"{process.name:<13} {process.address:<22} healthy after {time.monotonic() - began:.1f} s")
        processes.append(process)
    if plan.gateway:
        out.print(f"console: http://{plan.address('gateway')}", soft_wrap=True)
    return processes


def _check(plan: Plan) -> None:
    """Raise CommandFailed if packages or bundles are missing, or if a system runs in this home folder."""
    if missing := [module for module in _MODULES if find_spec(module) is None]:
        raise CommandFailed(f"{', '.join(missing)} not installed: pip install 'sluice-search[serving,cpu]'")
    if found := running(plan.home):
        names = ", ".join(f"{process.name} at {process.address}" for process in found)
        raise CommandFailed(f"already running in {plan.home}: {names}; `sluice down` stops it")
    for bundle in (plan.embedding_bundle, plan.reranking_bundle):
        if not (bundle / "bundle.json").is_file():
            raise CommandFailed(f"{bundle}: expected a bundle folder, found no bundle.json; `sluice export` makes one")


def _only_bundle(home: Path) -> Path:
    """Return the bundle in a home folder. Raises CommandFailed unless there is exactly one."""
    # Names that start with a dot are unfinished exports.
    found = sorted(path.parent for path in home.glob("bundles/[!.]*/[!.]*/bundle.json"))
    if len(found) == 1:
        return found[0]
    names = "".join(f"\n  --bundle {folder}" for folder in found)
    raise CommandFailed(f"expected one bundle in {home / 'bundles'}, found {len(found)}: choose with --bundle{names}")


def _wait(processes: Sequence[Process]) -> None:
    """Wait until a signal ends the command. Raises CommandFailed when a service ends by itself."""
    while True:
        for process in processes:
            if not process.is_alive():
                raise CommandFailed(f"{process.name} ended by itself: see its log in `logs` of the home folder")
        time.sleep(_POLL_S)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
