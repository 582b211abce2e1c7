"""
The demonstration: a small legacy shop that never stops changing, mirrored live and proven equal.

The idea: everything in it is the real thing. Real servers, the real command in a process of its
own, a real SIGKILL, and a comparison that does not use the engine's own decoder.
"""

from __future__ import annotations

import argparse

__all__ = ["add_options", "run"]

FEWEST_ROWS = 1000


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``tailrace demo``."""
    parser.add_argument("--source", choices=("mysql", "mariadb"), default="mysql")
    parser.add_argument("--rows", type=_rows, default=200_000, metavar="N", help="rows of the shop")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="N", help="how long the shop keeps changing"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave both servers running at the end, until Enter"
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")


def _rows(text: str) -> int:
    count = int(text)
    if count < FEWEST_ROWS:
        raise argparse.ArgumentTypeError(f"at least {FEWEST_ROWS}, so that no table is empty")
    return count


def run(options: argparse.Namespace) -> int:
    """Run the whole demonstration. Returns 0 if both sides are equal at its end, else 3.

    Raises ``TailraceError`` if it could not be brought to its end.
    """
    # The other commands, and the shop's writer, shall not wait for what only this one needs.
    from engine.demo import show

    return show.run(options)
