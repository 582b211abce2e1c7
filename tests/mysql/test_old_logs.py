"""
The logs of old servers, read from files with a schema dump: their rows are those that mysqlbinlog
shows. The servers are not needed (`tests.support.record_old_logs`).
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from engine.change import Rows
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
    expected = list(shown_rows(gzip.decompress((folder / "shown.txt.gz").read_bytes())))
    source = BinlogFileSource(
        BinlogFileSettings(url=f"mysql-binlog:{tmp_path}", schema=str(folder / "schema.sql"))
    )
    assert [finding.level for finding in source.check()] == ["ok", "ok"]
    found = [change for part in source.stream(None, ()) for change in part]
    rows = [change for change in found if isinstance(change, Rows)]
    found_differences = [text[:300] for text in differences(rows, expected)]
    assert not found_differences, "\n".join(found_differences[:20])
