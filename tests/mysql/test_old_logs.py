"""
The logs of old servers, read from files with a schema dump: their rows are those that mysqlbinlog
shows. The servers are not needed (`tests.support.record_old_logs`).
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from engine.change import Rows
from sources.mysql.binlog.compression import cut_events
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.ddl.definitions import Definitions
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.position import MySQLPosition
from tests.support.old_servers import OLD_SERVERS
from tests.support.record_old_logs import FOLDER
from tests.support.shown_rows import differences, shown_rows


def definitions_of(folder: Path) -> Definitions:
    definitions = Definitions()
    dialect = Dialect(mariadb="mariadb" in folder.name)
    schema = ""
    for statement in (folder / "schema.sql").read_text().split(";\n"):
        if statement.strip().startswith("USE"):
            schema = statement.strip()[5:-1]
        elif statement.strip():
            definitions.follow(statement, schema, dialect)
    return definitions


@pytest.mark.parametrize("name", OLD_SERVERS)
def test_the_rows_are_those_that_mysqlbinlog_shows(name: str, by_each_codec: None) -> None:
    folder = FOLDER / name
    (path,) = folder.glob("binlog.*.gz")
    expected = list(shown_rows(gzip.decompress((folder / "shown.txt.gz").read_bytes())))
    events, rest = cut_events(gzip.decompress(path.read_bytes())[4:])
    tracking = Tracking(definitions_of(folder).tables.values(), lambda id: True)
    stream = Stream(MySQLPosition("", path.stem, 4), tracking)
    found = [change for part in stream.feed(events) for change in part]
    rows = [change for change in found if isinstance(change, Rows)]
    assert (rest, stream.unfinished) == (b"", False)
    found_differences = [text[:300] for text in differences(rows, expected)]
    assert not found_differences, "\n".join(found_differences[:20])
