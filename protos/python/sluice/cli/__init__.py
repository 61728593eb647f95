"""The command line `sluice`: searching, indexing, and the commands that other packages add."""

import sys

from sluice.errors import SluiceError
from sluice.signals import stop_on_signals


def main() -> None:
    """Run the command line.

    Exit codes: 0 success, 1 failure, 2 wrong arguments, 3 some documents were rejected.
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
        # An argument has bytes that are not UTF-8, which Python keeps as lone surrogates.
        given = f"{error.object[error.start : error.end]!a:.40}"
        print_failure(CommandFailed(f"expected arguments that can be written as {error.encoding}, got {given}"))
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has closed the pipe. There is nothing left to flush.
        sys.stderr.close()
        sys.exit(1)
