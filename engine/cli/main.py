"""
The command line: the parser, exit statuses, and the last resort for errors.

The commands, with their options, are in ``engine.cli.init``, ``run``, ``inspect``,
``verify``, ``report``, ``schema``, ``cutover``, ``control``, ``recovery``, ``inbox`` and ``top``.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.cli.output import prepare_streams, print_json
from engine.errors import OutputError, TailraceError
from engine.ops.log import printable
from engine.ops.log_fields import error_fields
from engine.remedies import remedy_of

__all__ = ["main"]

DESCRIPTION = """\
Tailrace follows the binary log of a MySQL or MariaDB database, and mirrors it into PostgreSQL:
every change, in order, exactly once, with a proof that both sides are equal.

  tailrace init mysql://repl@old/shop postgresql://tailrace@new/shop   write a configuration
  tailrace check tailrace.toml      inspect both sides; each finding says what to type
  tailrace run tailrace.toml        backfill the tables and follow the log; Ctrl-C commits and stops
  tailrace status tailrace.toml     position and lag, from another terminal
  tailrace tables tailrace.toml     the state of each table, and what to type where one stopped
  tailrace verify tailrace.toml     compare every row of both sides, while changes flow
  tailrace demo                     try it on temporary servers, in a minute

The source may also be the log files of a server that is gone: mysql-binlog:/archive/binlog.*
"""
EPILOG = """\
exit status: 0 success, 1 failure, 2 wrong usage or configuration, 3 differences found, or tables
quarantined, 4 a newer engine has taken over
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Errors go to standard error with their hints."""
    prepare_streams()
    words = sys.argv[1:] if arguments is None else arguments
    options = make_parser(through_api=names_api(words)).parse_args(words)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except TailraceError as error:
        config = str(getattr(options, "config", ""))
        show_error(error, config)
        if getattr(options, "json", False) and not isinstance(error, OutputError):
            print_json({"error": _as_json(error, config)})
        return error.exit_status
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # The reader of standard output is gone. Keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort, for bugs
        # Its message is not printed, because it may contain row values.
        from rich.console import Console

        traceback.print_tb(error.__traceback__)
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        Console(stderr=True).print(
            f"[bold red]{kind}: this is a bug in Tailrace[/], please report it"
        )
        return 1


def _as_json(error: TailraceError, config: str) -> dict[str, str | None]:
    """An error as ``--json`` prints it on standard output, in the place of the result."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "hint": remedy_of(error, config),
        "table": error.table,
        "position": error.position,
    }


def show_error(error: TailraceError, config: str = "") -> None:
    """Print an error and its hint, and log them where the log is configured."""
    hint = remedy_of(error, config)
    logger = logging.getLogger("tailrace")
    if logger.handlers:
        logger.error("stopped", extra=error_fields(error) | {"hint": hint})
    if not logger.handlers or sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True, soft_wrap=True)
        console.print(Text.assemble(("error: ", "bold red"), printable(str(error))))
        if hint:
            console.print(Text.assemble(("what to do: ", "bold"), printable(hint)))


def names_api(words: Sequence[str]) -> bool:
    """Whether a command line has ``--api``, which stands in the place of CONFIG."""
    return any(word == "--api" or word.startswith("--api=") for word in words)


def make_parser(*, through_api: bool = False) -> argparse.ArgumentParser:
    """The whole command line, or that of commands through the API, which take no CONFIG."""
    from engine.cli.api_address import add_api
    from engine.cli.control import PAUSE, RELOAD, RESUME, STOP
    from engine.cli.cutover import CUTOVER
    from engine.cli.inbox import COMMANDS
    from engine.cli.init import INIT
    from engine.cli.inspect import CHECK, STATUS
    from engine.cli.recovery import BACKFILL, DEAD_LETTERS, QUARANTINE, RESET, SKIP, TABLES
    from engine.cli.report import REPORT
    from engine.cli.run import BENCH, DEMO, RUN, TAIL
    from engine.cli.schema import SCHEMA
    from engine.cli.top import TOP
    from engine.cli.verify import VERIFY

    parser = argparse.ArgumentParser(
        "tailrace",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        help="print the version, and whether the codecs are compiled",
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser
    )
    recovery = (TABLES, BACKFILL, QUARANTINE, SKIP, DEAD_LETTERS, COMMANDS, RESET)
    control = (PAUSE, RESUME, RELOAD, STOP)
    following = (RUN, STATUS, TOP, *control, *recovery, VERIFY, REPORT, SCHEMA, CUTOVER, TAIL)
    for command in (INIT, CHECK, *following, DEMO, BENCH):
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=inspect.cleandoc(command.run.__doc__ or ""),
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=command.run, api="")
        if command.takes_api:
            add_api(sub)
        elif through_api:
            sub.add_argument("--api", action=_NoApi, help=argparse.SUPPRESS)
        if command.takes_config and not (command.takes_api and through_api):
            sub.add_argument("config", type=Path, metavar="CONFIG", help="the TOML configuration")
        command.add_options(sub)
    return parser


class _CommandParser(argparse.ArgumentParser):
    """Options may stand anywhere, also between CONFIG and the names or numbers after it."""

    _intermixed = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._intermixed:
            return super().parse_known_args(args, namespace)
        self._intermixed = True  # the method below calls this one
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False


class _NoApi(argparse.Action):
    """Says that a command cannot be given through the API."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        command = parser.prog.rpartition(" ")[2]
        parser.error(
            f"{command} cannot work through the API: it connects to the source or the target"
            " itself, so it needs CONFIG"
        )


class _Version(argparse.Action):
    """Prints the version and the kind of the codecs, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from engine.cli.wiring import version_and_codecs

        print("tailrace {} ({} codecs)".format(*version_and_codecs()))
        parser.exit()
