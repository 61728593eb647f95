"""`sluice load` and `sluice eval`: hand over to `loadtest`, which needs the extra of that name."""

from importlib import import_module

import typer

from sluice.cli.console import CommandFailed


def load(context: typer.Context) -> None:
    """Run a load scenario and write a report: `sluice load --help` tells all."""
    _hand_over("load", context)


def evaluate(context: typer.Context) -> None:
    """Measure search quality on a judged collection: `sluice eval --help` tells all."""
    _hand_over("eval", context)


def _hand_over(command: str, context: typer.Context) -> None:
    try:
        loadtest = import_module("loadtest.__main__")
    except ImportError as error:
        raise CommandFailed(f"{error.name} not installed: pip install 'sluice-search[loadtest]'") from error
    loadtest.app(args=[command, *context.args], prog_name="sluice")
