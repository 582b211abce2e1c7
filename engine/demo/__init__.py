"""
``tailrace demo``: mirrors a small legacy shop database while it changes, compares both sides, and
switches the shop to the new one.

Nothing in the demo is simulated. It starts real servers, runs ``tailrace run`` in a process of its
own, kills that process with SIGKILL, types the commands that a person would type, and counts and
compares the rows without the engine's codecs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_options", "run"]

MINIMUM_ROWS = 1000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tailrace demo``."""
    parser.add_argument(
        "--source",
        choices=("mysql", "mariadb"),
        default="mysql",
        help="the server to mirror from (default: mysql)",
    )
    parser.add_argument(
        "--rows",
        type=_rows,
        default=200_000,
        metavar="N",
        help="how many rows the shop has at the start (default: 200000)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=25.0,
        metavar="N",
        help="how long the shop changes before the cutover (default: 25)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep both servers running at the end, until Enter"
    )
    parser.add_argument("--plain", action="store_true", help="print lines instead of the live view")
    parser.add_argument(
        "--record",
        type=_file_in_a_folder,
        metavar="FILE",
        help="write a picture of the demo, as SVG",
    )

    parser.add_argument(
        "--report",
        type=_report_file,
        metavar="FILE",
        help="keep the report of the cutover, as FILE.html or FILE.json",
    )


def _rows(text: str) -> int:
    count = int(text)
    if count < MINIMUM_ROWS:
        raise argparse.ArgumentTypeError(f"at least {MINIMUM_ROWS}, so that no table is empty")
    return count


def _report_file(text: str) -> Path:
    if not text.endswith((".html", ".json")):
        raise argparse.ArgumentTypeError("the report has to end with .html or .json")
    return _file_in_a_folder(text)


def _file_in_a_folder(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist")
    return path


def run(options: argparse.Namespace) -> int:
    """Run the whole demo. Returns 0 if nothing was lost or repeated, else 3.

    Raises ``TailraceError`` if a step fails.
    """
    # Imported here, because the other commands and the shop's writer do not need it.
    from engine.demo import steps

    return steps.run(options)
