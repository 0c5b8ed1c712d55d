"""The command line: argv to one call. The only module that knows the terminal.

Exit codes: 0 ok; 1 a bug of Headwater (with a traceback); 2 something that the user can solve (one line per problem,
then a hint); 130 stopped by Ctrl-C, 143 by SIGTERM, as shells count.
Data goes to standard output, log lines and progress bars to standard error.
"""

from __future__ import annotations

import sys

from cyclopts import CycloptsError
from rich.console import Console

from headwater.cli import costs, documents, models, recipes  # noqa: F401  (each adds its commands to the app)
from headwater.cli.terminal import app, complain
from headwater.core import log
from headwater.core.errors import HeadwaterError, Stopped


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `headwater` command."""
    log.set_up()
    try:
        app(arguments, exit_on_error=False, print_error=False, help_on_error=False, console=Console(highlight=False))
    except CycloptsError as error:
        complain([str(error).splitlines()[0]], "headwater --help")
    except HeadwaterError as error:
        complain(list(error.lines), error.hint)
    except KeyboardInterrupt as stop:
        log.console.print("stopped; run the same command again to go on from here", markup=False)
        raise SystemExit(stop.exit_code if isinstance(stop, Stopped) else 130) from None
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        raise SystemExit(0) from None
