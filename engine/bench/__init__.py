"""
The benchmarks: ``tailrace bench``, against the limits of the databases themselves.

The idea: the engine runs as a person runs it, on logs that are kept, in turn with what the target
can do at most on the same rows; only the ratio of one run means anything. How it is measured, and
the last results, are told in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_options", "run"]

FEWEST_ROWS = 1_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``tailrace bench``."""
    parser.add_argument(
        "what",
        choices=("decode", "snapshot", "stream", "latency", "all"),
        help="log files into row tuples; a table's copy; a backlog end to end; from commit to"
        " visible under a steady load; or all of them",
    )
    parser.add_argument(
        "--rows",
        type=_rows,
        default=1_000_000,
        metavar="N",
        help="of the table (default 1M)",
    )
    parser.add_argument("--only", metavar="NAME", help="one result alone, such as stream-update")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="how often (default 3)")
    parser.add_argument(
        "--tables", type=int, metavar="N", help="also with N idle tables beside the busy one"
    )
    parser.add_argument(
        "--columns", type=int, metavar="N", help="also with tables of up to N columns"
    )
    parser.add_argument("--json", action="store_true", help="print the results for machines")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw plots, as PNG files")
    parser.add_argument(
        "--source", metavar="URL", help="your own MySQL; it makes a database tailrace_bench there"
    )
    parser.add_argument(
        "--target", metavar="URL", help="your own PostgreSQL; it makes databases of its own there"
    )


def _rows(text: str) -> int:
    count = int(text)
    if count < FEWEST_ROWS:
        raise argparse.ArgumentTypeError(f"at least {FEWEST_ROWS}")
    return count


def run(options: argparse.Namespace) -> int:
    """Measure what is wanted and show it. Raises ``TailraceError`` where a result is wrong."""
    # The other commands shall not wait for what only this one needs.
    from engine.bench import suite

    return suite.run(options)
