"""The commands that other packages add to `sluice`: entry points of the group `sluice.commands`.

Such an entry point names a function whose parameters have Typer annotations. It is loaded when its command runs, so
`sluice --help` and the other commands import no server.
"""

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sluice.cli.console import CommandFailed

GROUP: Final = "sluice.commands"
RUN_PANEL: Final = "Run a system"
_MISSING_PANEL: Final = "Not installed"

HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Known:
    """A command of Sluice's own that another package brings."""

    summary: str
    extras: str
    """The extras of `sluice-search` that install it with everything that it needs."""

    @property
    def install(self) -> str:
        """The command line that installs it."""
        return f"pip install 'sluice-search[{self.extras}]'"


KNOWN: Final = {
    "status": Known("Show the health of each service.", "serving,cpu"),
    "doctor": Known("Check a running system, and say what is wrong and what to do.", "serving,cpu"),
    "up": Known("Start the services on this machine.", "serving,cpu"),
    "down": Known("Stop the system that `sluice up` started.", "serving,cpu"),
    "token": Known("Make a bearer token, and its entry for the servers' token file.", "serving,cpu"),
    "demo": Known(
        "Export a model, start a system, index and search some documents.", "serving,cpu,gateway,export,demo"
    ),
    "demo-corpus": Known("Print the corpus of the demo as JSON lines.", "serving,cpu"),
    "export": Known("Turn a checkpoint into a bundle that the servers run.", "export"),
    "load": Known("Run a load scenario against a system and write a report.", "loadtest"),
    "eval": Known("Measure search quality on a judged collection.", "loadtest"),
}


class CommandGroup(TyperGroup):
    """The client's own commands, and those that other packages add.

    Entry points are looked up only when help is printed or when a command is not one of the client's.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, those that are known but not installed included."""
        self._add_commands()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name, None if there is none."""
        if cmd_name not in self.commands:
            self._add_commands()
        return super().get_command(ctx, cmd_name)

    def _add_commands(self) -> None:
        found = {one.name: one for one in entry_points(group=GROUP)}
        for name in [*KNOWN, *sorted(found.keys() - KNOWN.keys())]:
            if name not in self.commands:
                self.add_command(_LazyCommand(name, found.get(name)))


class _LazyCommand(TyperCommand):
    """A command whose function is loaded when the command runs."""

    def __init__(self, name: str, entry_point: EntryPoint | None) -> None:
        known = KNOWN.get(name)
        text, panel = known.summary if known else "", RUN_PANEL
        if entry_point is None and known is not None:
            text, panel = known.install, _MISSING_PANEL
        super().__init__(name, help=escape(text), rich_help_panel=panel, rich_markup_mode="rich")
        self._entry_point = entry_point
        self._known = known

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Load the command and parse its arguments. Raises CommandFailed if it cannot be loaded."""
        return self._load().make_context(info_name, args, parent, **extra)

    def _load(self) -> Any:
        name = f"`sluice {self.name}`"
        install = self._known.install if self._known else "install what it needs"
        if self._entry_point is None:
            raise CommandFailed(f"{name} is not installed: {install}")
        try:
            function = self._entry_point.load()
        except ImportError as error:
            raise CommandFailed(f"{name} needs {error.name}, which is not installed: {install}") from error
        app = typer.Typer(
            add_completion=False,
            rich_markup_mode="rich",
            pretty_exceptions_enable=False,
            context_settings=dict(HELP_OPTIONS),
        )
        app.command(self.name)(function)
        return get_command(app)
