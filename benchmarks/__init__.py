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
    _add_measurements(parser)
    _add_results(parser)
    _add_servers(parser)


def _add_measurements(parser: argparse.ArgumentParser) -> None:
    """What is measured, and how often."""
    parser.add_argument(
        "what",
        choices=("decode", "snapshot", "stream", "latency", "profile", "all"),
        help="log files into row tuples; a table's copy; a backlog end to end; from commit to"
        " visible under a steady load; where the engine's processor time goes, by step; or all of"
        " them",
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
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also other programs on the same workloads; what is not there is downloaded, about"
        " 500 MB",
    )
    parser.add_argument(
        "--peer-repeat",
        type=int,
        default=1,
        metavar="N",
        help="how often each of them (default 1: they are slow)",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    """What becomes of the results."""
    parser.add_argument("--json", action="store_true", help="print the results for machines")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write them to a file as JSON")
    parser.add_argument(
        "--from",
        dest="saved",
        type=Path,
        metavar="FILE",
        help="measure nothing: show what --save has written",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="DIR", help="draw plots there, as PNG and SVG files"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="put tables between the marks of a Markdown file, such as benchmarks/README.md",
    )


def _add_servers(parser: argparse.ArgumentParser) -> None:
    """What is measured on other servers than private ones."""
    parser.add_argument(
        "--source",
        metavar="URL",
        help="your own MySQL: makes a database tailrace_bench there for each measurement and drops"
        " it afterwards; refuses to touch one that it did not make. Needs a user with all rights"
        " and local_infile = ON. What reads log files still starts a private server. In both URLs"
        " ${VARIABLE} and ${file:PATH} keep a password out of sight",
    )
    parser.add_argument(
        "--target",
        metavar="URL",
        help="your own PostgreSQL: makes databases tailrace_bench_1, tailrace_bench_2, ... beside"
        " the one that is named and drops them afterwards; refuses to touch those that it did not"
        " make. Needs a role with CREATEDB; takes a CHECKPOINT before each run if it may",
    )


def _rows(text: str) -> int:
    count = int(text)
    if count < FEWEST_ROWS:
        raise argparse.ArgumentTypeError(f"at least {FEWEST_ROWS}")
    return count


def run(options: argparse.Namespace) -> int:
    """Measure what is wanted and show it. Raises ``TailraceError`` where a result is wrong."""
    # The other commands shall not wait for what only this one needs.
    from benchmarks import suite

    return suite.run(options)
