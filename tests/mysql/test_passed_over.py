"""
The rows of tables that are not followed, counted by their storage types alone.
"""

from __future__ import annotations

import pytest

from engine.change import Rows
from engine.schema import TableId
from sources.mysql.binlog.passed_over import PassedOver
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings
from tests.support.recorded_logs import FIXTURES, recorded
from tests.support.written_log import Log


def decoded(name: str, *ignored: TableId) -> dict[TableId, int]:
    """The number of rows by table. Reading to the end logs those of the ignored tables."""
    source = BinlogFileSource(
        BinlogFileSettings(url=f"mysql-binlog:{FIXTURES / name}", tables=("rec.*",))
    )
    found: dict[TableId, int] = {}
    for part in source.stream(None, (), (), ignored):
        for change in part:
            if isinstance(change, Rows):
                found[change.table.id] = found.get(change.table.id, 0) + len(change)
    return found


@recorded
def test_as_many_rows_are_counted_as_are_decoded(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Except in XA transactions that are rolled back."""
    rows = decoded(name)
    del rows[TableId("rec", "later")]
    assert not set(decoded(name, *rows)) & set(rows)
    logged = [vars(record) for record in caplog.records if hasattr(record, "table")]
    assert {each["table"]: each["rows"] for each in logged} == {
        str(id): count for id, count in rows.items()
    }


def test_a_later_attempt_counts_no_row_twice() -> None:
    log = Log().table().insert(1).insert(2)
    counter = PassedOver()
    for _ in range(2):
        counter.begin()
        counter.meet(log.events[0], len(log.events[0]) - 4)
        for number, event in enumerate(log.events[1:]):
            counter.count(event[4], event, len(event) - 4, ("binlog.000001", number))
    assert counter.rows == {TableId("shop", "item"): 2}
