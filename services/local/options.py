"""Options that several of the operator's commands take."""

from pathlib import Path
from typing import Annotated, Final

import typer

from services.local.plan import LAST_PORT

Home = Annotated[
    Path,
    typer.Option(envvar="SLUICE_HOME", file_okay=False, help="Folder for bundles, data and logs."),
]
DEFAULT_HOME: Final = Path("~/.sluice")

Port = Annotated[
    int,
    typer.Option(min=1, max=LAST_PORT, help="Port of the orchestrator. The other services use the next eight ports."),
]

Variant = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|int8|fp16",
        help="Graph of the bundles to run. int8 takes about half the time of fp32; auto is the choice of the export.",
    ),
]
DEFAULT_VARIANT: Final = "auto"
