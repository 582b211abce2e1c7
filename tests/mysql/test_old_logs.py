"""
The logs of old servers, read from files with a schema dump: their rows are those that mysqlbinlog
shows. The servers are not needed (`tests.support.record_old_logs`).
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from engine.change import Rows, SchemaChange, Truncate
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings
from tests.support.old_servers import OLD_SERVERS
from tests.support.record_old_logs import FOLDER
from tests.support.shown_rows import differences, shown_rows


@pytest.mark.parametrize("name", OLD_SERVERS)
def test_the_rows_are_those_that_mysqlbinlog_shows(
    name: str, tmp_path: Path, by_each_codec: None
) -> None:
    folder = FOLDER / name
    for path in folder.glob("binlog.*.gz"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    source = BinlogFileSource(
        BinlogFileSettings(url=f"mysql-binlog:{tmp_path}", schema=str(folder / "schema.sql"))
    )
    tables = set(re.findall("^CREATE TABLE `(\\w+)`", (folder / "schema.sql").read_text(), re.M))
    shown = list(shown_rows(gzip.decompress((folder / "shown.txt.gz").read_bytes())))
    assert tables < {row.table for row in shown}
    changes = [change for part in source.stream(None, ()) for change in part]
    rows = [change for change in changes if isinstance(change, Rows)]
    found = [text[:300] for text in differences(rows, shown)]
    assert not found, "\n".join(found[:20])
    made = [each.after for each in changes if isinstance(each, SchemaChange) and each.after]
    assert {"item", "made", "old_name", "moved"} <= {table.id.name for table in made}
    assert [each.table.id.name for each in changes if isinstance(each, Truncate)] == ["item"]
