"""
mysql-replication decoding a log, without a target: ``mysql_replication_decode.py SETTINGS``.

The settings are a JSON file, written by ``benchmarks/peers/mysql_replication.py``. Every value of
every row is decoded; the rows are counted and dropped. A second run, which is not timed, hashes the
columns that are compared with the source.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import WriteRowsEvent


def batches(settings: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The inserted rows of each event, from the position to the log's end."""
    position, schema, table = settings["position"], *settings["table"].split(".")
    stream = BinLogStreamReader(
        connection_settings=settings["source"],
        server_id=5402,
        resume_stream=True,
        log_file=position["file"],
        log_pos=position["offset"],
        only_events=[WriteRowsEvent],
        only_schemas=[schema],
        only_tables=[table],
    )
    try:
        for event in stream:
            yield event.rows
    finally:
        stream.close()


def decode(settings: dict[str, Any]) -> tuple[int, float]:
    """The number of rows, and the seconds that decoding took."""
    rows = 0
    started = time.perf_counter()
    for batch in batches(settings):
        rows += len(batch)
    return rows, time.perf_counter() - started


def checksum(settings: dict[str, Any]) -> int:
    """The sum of the rows' hashes, as ``table_sums`` of ``benchmarks/harness/source.py``."""
    total = 0
    for batch in batches(settings):
        for row in batch:
            values = row["values"]
            texts = (_text(values[column]) for column in settings["columns"])
            digest = hashlib.sha256("|".join(texts).encode()).hexdigest()
            total += int(digest[:8], 16)
    return total


def _text(value: object) -> str:
    return "~" if value is None else str(value)


def main() -> None:
    """Print the result as JSON."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    if settings["check"]:
        print(json.dumps({"checksum": checksum(settings)}))
    else:
        rows, seconds = decode(settings)
        print(json.dumps({"rows": rows, "seconds": seconds}))


if __name__ == "__main__":
    main()
