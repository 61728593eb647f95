"""`sluice up`, `sluice down` and `sluice status`."""

import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, NoReturn

import typer

from sluice.cli import options
from sluice.cli.access import access
from sluice.cli.console import CommandFailed, err, out
from sluice.cli.system import DEFAULT_PORT, LAST_PORT, Plan, Process, health, running, start, stop

_NEEDED: Final = ("faiss", "numpy", "onnxruntime", "prometheus_client", "pydantic_settings", "tokenizers", "yaml")

Bundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="FOLDER",
        help="The bi-encoder's bundle, NAME/VERSION; default: the one in the home folder's `bundles`.",
    ),
]


def up(
    bundle: Bundle = None,
    reranker: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The reranker's bundle; default: the bi-encoder's, by late interaction."),
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
    port: Annotated[
        int, typer.Option(min=1, max=LAST_PORT, help="The orchestrator's; the others take the next eight.")
    ] = DEFAULT_PORT,
    pipelines: Annotated[Path | None, typer.Option(metavar="FILE", help="Pipelines, YAML.")] = None,
    variant: options.Variant = options.DEFAULT_VARIANT,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Leave the system running: `sluice down` stops it.")
    ] = False,
) -> None:
    """Start the four services on this machine, and the gateway with its console; stop them with ^C.

    [bold]Examples[/]

      sluice up --bundle ~/.sluice/bundles/all-MiniLM-L6-v2/1

      sluice up --bundle bundles/e5/1 --reranker bundles/ms-marco/1 --detach
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


def down(home: options.Home = options.DEFAULT_HOME) -> None:
    """Stop the system that `sluice up` started."""
    home = home.expanduser().absolute()
    processes = running(home)
    stop(processes, home)
    out.print("stopped" if processes else "nothing was running")


def status(
    address: options.Address = options.DEFAULT_ADDRESS,
    embedding: Annotated[str, typer.Option(metavar="HOST:PORT")] = "127.0.0.1:50051",
    retrieval: Annotated[str, typer.Option(metavar="HOST:PORT")] = options.DEFAULT_RETRIEVAL,
    reranking: Annotated[str, typer.Option(metavar="HOST:PORT")] = "127.0.0.1:50053",
) -> None:
    """Ask each service for its health. Exit code 1 unless all four serve."""
    places = {"orchestrator": address, "embedding": embedding, "retrieval": retrieval, "reranking": reranking}
    states = {name: health(name, place, access=access()) for name, place in places.items()}
    for name, state in states.items():
        out.print(f"{name:<13} {places[name]:<22} {state}", style=None if state == "SERVING" else "red")
    if set(states.values()) != {"SERVING"}:
        raise CommandFailed("not all services serve; `sluice up` starts them")


def start_system(plan: Plan) -> list[Process]:
    """Start the services, telling of each as it becomes healthy. Raises CommandFailed."""
    if missing := [module for module in _NEEDED if find_spec(module) is None]:
        raise CommandFailed(f"{', '.join(missing)} not installed: pip install 'sluice-search[serving,cpu]'")
    if found := running(plan.home):
        names = ", ".join(f"{process.name} at {process.address}" for process in found)
        raise CommandFailed(f"already running in {plan.home}: {names}; `sluice down` stops it")
    for bundle in (plan.embedding_bundle, plan.reranking_bundle):
        if not (bundle / "bundle.json").is_file():
            raise CommandFailed(f"{bundle}: expected a bundle folder, found no bundle.json; `sluice export` makes one")
    # SIGTERM ends us as ^C does, and on the way out what was started is stopped.
    signal.signal(signal.SIGTERM, _leave)
    processes = []
    began = time.monotonic()
    for process in start(plan):
        out.print(f"{process.name:<13} {process.address:<22} healthy after {time.monotonic() - began:.1f} s")
        processes.append(process)
    if plan.gateway:
        out.print(f"console: http://{plan.address('gateway')}", soft_wrap=True)
    return processes


def _only_bundle(home: Path) -> Path:
    """The bundle in a home folder. Raises CommandFailed unless there is exactly one."""
    # Names with a dot are exports under way.
    found = sorted(path.parent for path in home.glob("bundles/[!.]*/[!.]*/bundle.json"))
    if len(found) == 1:
        return found[0]
    names = "".join(f"\n  --bundle {folder}" for folder in found)
    raise CommandFailed(f"expected one bundle in {home / 'bundles'}, found {len(found)}: choose with --bundle{names}")


def _wait(processes: list[Process]) -> None:
    """Wait, until a signal comes. Raises CommandFailed when a service ends by itself."""
    while True:
        for process in processes:
            if not process.is_alive():
                raise CommandFailed(f"{process.name} ended by itself: its log is in the home folder")
        time.sleep(0.5)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
