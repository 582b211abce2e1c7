"""
The benchmarks: ``tailrace bench``, which measures the engine against the databases' own limits.

The engine runs as users run it, on cached logs, alternating with the fastest way to load the same
rows into the target. The machine's speed drifts, so figures are compared only within one run.
``benchmarks/README.md`` describes the method, ``benchmarks/results/README.md`` shows the results.

- This module has the options of the command; ``suite.py`` lists the measurements and runs them.
- ``workloads.py`` defines the tables and the transactions that are measured.
- ``measurements/`` has one module for each kind of measurement.
- ``harness/`` has the servers, the measured processes and the limits.
- ``peers/`` has the other programs that are measured on the same workloads.
- ``reporting/`` makes tables, plots and a page from results.
- ``check.py`` checks the codecs against recorded costs (``make bench-check``).
- ``reread.py`` compares two ways to read a table again after a change of one column.
- ``results/`` holds recorded results. It is in the repository only, not in the installed package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_options", "run"]

FEWEST_ROWS = 1_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tailrace bench``."""
    _add_measurements(parser)
    _add_results(parser)
    _add_servers(parser)


def _add_measurements(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured, and how often."""
    parser.add_argument(
        "what",
        choices=("decode", "snapshot", "stream", "verify", "latency", "profile", "all"),
        help="decode: log files into row tuples; snapshot: the backfill of a table; stream: a"
        " backlog end to end; verify: the comparison of both sides; latency: from commit to"
        " visible under a steady load; profile: the engine's processor time by step; all: each of"
        " them",
    )
    parser.add_argument(
        "--rows",
        type=_rows,
        default=1_000_000,
        metavar="N",
        help="rows of the table (default 1,000,000)",
    )
    parser.add_argument(
        "--only", metavar="NAME", help="measure one result only, such as stream-update"
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="number of repetitions (default 3)"
    )
    parser.add_argument(
        "--tables", type=int, metavar="N", help="also measure with N idle tables in the database"
    )
    parser.add_argument(
        "--columns", type=int, metavar="N", help="also measure tables of up to N columns"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also measure other programs on the same workloads; downloads about 500 MB the first"
        " time",
    )
    parser.add_argument(
        "--peer-repeat",
        type=int,
        default=1,
        metavar="N",
        help="number of repetitions for other programs (default 1, because they are slow)",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the results go."""
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the results to a file")
    parser.add_argument(
        "--from",
        dest="saved",
        type=Path,
        metavar="FILE",
        help="measure nothing, and show the results that --save has written",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="DIR", help="draw plots as PNG and SVG files in a folder"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write tables between the marks of a Markdown file, such as"
        " benchmarks/results/README.md",
    )


def _add_servers(parser: argparse.ArgumentParser) -> None:
    """Add the options for servers of the user's own."""
    parser.add_argument(
        "--source",
        metavar="URL",
        help="your own MySQL instead of a private one. Each measurement creates a database"
        " tailrace_bench there and drops it afterwards; a database of that name that the benchmarks"
        " did not create is refused. Needs a user with all privileges, and local_infile = ON."
        " decode and profile read log files and use a private server even so. In both URLs"
        " ${VARIABLE} and ${file:PATH} keep a password off the command line",
    )
    parser.add_argument(
        "--target",
        metavar="URL",
        help="your own PostgreSQL instead of a private one. The measurements create databases"
        " tailrace_bench_1, tailrace_bench_2, ... next to the named one and drop them afterwards;"
        " databases of these names that the benchmarks did not create are refused. Needs a role"
        " with CREATEDB; runs CHECKPOINT before each run if the role may",
    )


def _rows(text: str) -> int:
    count = int(text)
    if count < FEWEST_ROWS:
        raise argparse.ArgumentTypeError(f"at least {FEWEST_ROWS}")
    return count


def run(options: argparse.Namespace) -> int:
    """Measure and show the results. Raises ``TailraceError`` if a result is wrong."""
    # Imported here, so that other commands start without the modules that only this one needs.
    from benchmarks import suite

    return suite.run(options)
