"""The command line: `sluice search`, `sluice index`, `sluice up` and others."""

import sys

from sluice.errors import SluiceError
from sluice.signals import stop_on_signals


def main() -> None:
    """Run the command line.

    Exits with 0 when it worked, 1 when it failed, 2 when it was called wrongly, 3 when some documents were refused.
    """
    stop_on_signals()
    from sluice.cli.app import app
    from sluice.cli.console import CommandFailed, print_failure

    try:
        app(prog_name="sluice")
    except (SluiceError, CommandFailed) as error:
        print_failure(error)
        sys.exit(error.exit_status if isinstance(error, CommandFailed) else 1)
    except UnicodeEncodeError as error:
        # An argument with bytes that are not UTF-8, which Python keeps as lone surrogates.
        given = f"{error.object[error.start : error.end]!a:.40}"
        print_failure(CommandFailed(f"expected arguments that can be written as {error.encoding}, got {given}"))
        sys.exit(1)
    except BrokenPipeError:
        # Who read our output has enough, as `head` does. Nothing is left to flush to it.
        sys.stderr.close()
        sys.exit(1)
