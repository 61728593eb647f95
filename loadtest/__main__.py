"""The command `python -m loadtest`: `load`, `eval`, `compare` and `bench`. `sluice load` and `sluice eval` use it."""

import sys

import typer
from sluice.cli.console import CommandFailed, print_failure
from sluice.errors import SluiceError
from sluice.signals import stop_on_signals

from loadtest.compare.command import compare
from loadtest.load.command import load
from loadtest.quality.evaluate import evaluate

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _loadtest() -> None:
    """Measure Sluice: load, search quality, comparison of commits, benchmarks."""


app.command()(load)
app.command("eval")(evaluate)
app.command()(compare)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Run a benchmark. Each answers one question and prints a table and writes a JSON file."""
    # Imported late: its in-process side needs the servers' packages, which the other commands do not.
    from loadtest.bench.commands import app as benchmarks  # noqa: PLC0415

    benchmarks(args=context.args, prog_name="python -m loadtest bench")


def main() -> None:
    """Run the command line. Exit with 0 on success, 1 on failure, and 2 if the arguments are wrong."""
    stop_on_signals()
    try:
        app(prog_name="python -m loadtest")
    except (SluiceError, CommandFailed) as error:
        print_failure(error)
        sys.exit(error.exit_status if isinstance(error, CommandFailed) else 1)


if __name__ == "__main__":
    main()
