"""
Compare a table in a process of its own, and print its largest memory.

``python -m tests.support.compared_memory SOURCE TARGET SCHEMA TABLE MODE`` prints the rows, how
they were compared, whether they are equal, and the largest memory in MiB, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from engine.databases.mysql.connect import connect
from engine.databases.mysql.row_reader import MySQLRowReader
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.schema import TableId
from engine.toolkit.sampling import SampleSize
from engine.verify.comparison import verify
from sinks.postgres.settings import PostgresSettings
from sources.mysql.catalog import read_table
from sources.mysql.settings import MySQLSettings

__all__ = ["MODES"]

#: By name: the options of a comparison.
MODES: dict[str, dict[str, Any]] = {
    "checksums": {},
    "rows": {"by_rows": True},
    "sample": {"sample": SampleSize(share=0.5)},
}


async def at_once(position: str, deadline: float) -> bool:
    """A pipeline that has no work to do."""
    return True


def main(source_url: str, target_url: str, schema: str, name: str, mode: str) -> None:
    """Compare the table and print the outcome."""
    source = MySQLSettings(url=source_url)
    table = read_table(connect(source, timeout_seconds=60), TableId(schema, name))
    assert table is not None
    readers = MySQLRowReader(source), PostgresRowReader(PostgresSettings(url=target_url), Naming())
    comparison = verify(
        [table], *readers, source_position=lambda: "here", passed=at_once, **MODES[mode]
    )
    report = asyncio.run(comparison).tables[0]
    largest = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    outcome = report.rows, report.method, report.differing, report.inconclusive
    print(json.dumps([*outcome, int(largest[0]) // 1024]))


if __name__ == "__main__":
    main(*sys.argv[1:])
