"""
``tailrace verify`` in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from benchmarks.harness.processes import Usage, measure
from engine.errors import TailraceError
from engine.verify.report import VerifyReport

__all__ = ["compare"]


def compare(config: Path, rows: int, *options: str) -> tuple[VerifyReport, Usage]:
    """Run the comparison. Raises TailraceError if it did not find all rows to be equal."""
    log = config.parent / "verify.json"
    command: list[str | Path] = [sys.executable, "-P", "-m", "engine.cli", "verify", config]
    usage = measure([*command, "--json", "--no-record", *options], log)
    report = msgspec.json.decode(log.read_bytes(), type=VerifyReport)
    method = "rows" if "--rows" in options else "checksums"
    if not report.equal or [(it.rows, it.method) for it in report.tables] != [(rows, method)]:
        raise TailraceError(f"the comparison by {method} did not find {rows} equal rows")
    return report, usage
