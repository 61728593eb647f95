"""`sluice export`: hands over to `export`, which needs the extra of that name."""

from importlib import import_module

import typer

from sluice.cli.console import CommandFailed


def export(context: typer.Context) -> None:
    """Turn a checkpoint into a bundle: `sluice export --help` tells all."""
    try:
        command = import_module("export.__main__")
    except ImportError as error:
        raise CommandFailed(f"{error.name} not installed: pip install 'sluice-search[export]'") from error
    command.app(args=context.args, prog_name="sluice export")
