"""
XA transactions in the log: prepared, then committed or rolled back, with a resume in between.
"""

from __future__ import annotations

import struct

import msgspec
import pytest

from engine.change import Begin, Cascade, Commit, Row, Rows
from engine.errors import SourceError
from engine.schema import ForeignKey, TableId
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.xa import PreparedTransaction
from sources.mysql.position import UNKNOWN_PLACE, MySQLPosition, parse_position
from tests.support.written_log import ITEM, PLAIN, START, UUID, Log, fed, inserted, stream_at

XID = "X'61',X'',1"


def prepared(log: Log, number: int, id: int, name: str = "a", table: str = "item") -> Log:
    xid = f"X'{name.encode().hex()}',X'',1"
    log.gtid(number).query(f"XA START {xid}").table(table).insert(id).query(f"XA END {xid}")
    return log.prepare(name)


def test_the_gtid_of_a_prepared_transaction_is_a_gap_in_the_position() -> None:
    log = prepared(Log(), 10, 1).gtid(11).query("BEGIN").table().insert(2).xid()
    stream = stream_at(START)
    changes = fed(stream, log)
    assert inserted(changes) == [2]
    position = changes[-1].position  # type: ignore[union-attr]
    assert str(position.gtids) == f"{UUID}:1-9:11"
    assert position.prepared == {XID: f"{UUID}:10"}
    changes = fed(stream, Log(log.offset).gtid(12).query(f"XA COMMIT {XID}"))
    assert inserted(changes) == [1]
    assert str(changes[-1].position.gtids) == f"{UUID}:1-12"  # type: ignore[union-attr]
    assert changes[-1].position.prepared == {}  # type: ignore[union-attr]


def test_the_server_sends_a_prepared_group_again() -> None:
    first = stream_at(START)
    log = prepared(Log(), 10, 1).gtid(11).query("BEGIN").table().insert(2).xid()
    position = parse_position(str(fed(first, log)[-1].position))  # type: ignore[union-attr]
    again = stream_at(position)
    assert fed(again, prepared(Log(), 10, 1)) == []
    assert str(again.position.resume_position) == str(position)
    later = Log(log.offset).gtid(12).query(f"XA COMMIT {XID}")
    changes = fed(again, later)
    assert inserted(changes) == [1]
    assert str(changes[-1].position.gtids) == f"{UUID}:1-12"  # type: ignore[union-attr]


def test_by_file_and_offset_the_log_is_read_again_from_the_prepare() -> None:
    def log() -> Log:
        made = Log()
        made.query(f"XA START {XID}").table().insert(1).query(f"XA END {XID}").prepare("a")
        return made.query("BEGIN").table().insert(2).xid()

    changes = fed(stream_at(PLAIN), log())
    position = parse_position(str(changes[-1].position))  # type: ignore[union-attr]
    assert position.prepared == {XID: "binlog.000001:4"}
    again = stream_at(position)
    rotate = Log().add(
        ev.ROTATE, struct.pack("<Q", 4) + b"binlog.000001", flags=ev.ARTIFICIAL, log_pos=0
    )
    assert fed(again, rotate) == []
    whole = log().query(f"XA COMMIT {XID}")
    assert inserted(fed(again, whole)) == [1]


def test_a_rollback_discards_the_prepared_rows() -> None:
    stream = stream_at(START)
    log = prepared(Log(), 10, 1).gtid(11).query(f"XA ROLLBACK {XID}")
    assert fed(stream, log) == []
    assert str(stream.position.resume_position.gtids) == f"{UUID}:1-11"
    assert stream.position.resume_position.prepared == {}


OTHER = msgspec.structs.replace(ITEM, id=TableId("shop", "other"))


@pytest.mark.parametrize("start", [START, PLAIN], ids=["gtids", "file"])
def test_rows_prepared_before_their_table_is_followed(start: MySQLPosition) -> None:
    """A backfill after the XA PREPARE does not show them."""
    log = prepared(Log(), 10, 1, table="other").gtid(11).query("BEGIN").table().insert(2).xid()
    changes = fed(stream_at(start), log)
    position = parse_position(str(changes[-1].position))  # type: ignore[union-attr]
    assert position.skipped == {XID: {OTHER.id}}
    assert position.awaited({OTHER.id}.__contains__) == position.prepared
    commit = Log(log.offset).gtid(12).query(f"XA COMMIT {XID}")
    again = stream_at(position, ITEM, OTHER)
    resent = prepared(Log(), 10, 1, table="other")
    if start is PLAIN:  # the log is read again from the XA PREPARE
        resent.gtid(11).query("BEGIN").table().insert(2).xid()
        place = b"binlog.000001"
        assert fed(again, Log().add(ev.ROTATE, struct.pack("<Q", 4) + place, log_pos=0)) == []
    assert fed(again, resent) == []
    assert not again.position.skipped
    changes = fed(again, commit)
    assert inserted(changes) == [1]
    assert changes[-1].position.prepared == {}  # type: ignore[union-attr]


def test_rows_of_a_parent_that_were_prepared_before_it_is_followed() -> None:
    """A table that is read only for its children is not followed."""
    key = ForeignKey("f", ("id",), OTHER.id, ("id",), "cascade")
    child = msgspec.structs.replace(ITEM, foreign_keys=(key,))
    log = prepared(Log(), 10, 1, table="other").gtid(11).query("BEGIN").table().insert(2).xid()
    changes = fed(stream_at(START, child), log)
    position = parse_position(str(changes[-1].position))  # type: ignore[union-attr]
    assert position.skipped == {XID: {OTHER.id}}
    again = stream_at(position, child, OTHER)
    assert fed(again, prepared(Log(), 10, 1, table="other")) == []
    assert inserted(fed(again, Log(log.offset).gtid(12).query(f"XA COMMIT {XID}"))) == [1]


def test_prepared_rows_of_a_table_that_is_not_followed_are_not_read_again() -> None:
    log = prepared(Log(), 10, 1, table="other").gtid(11).query("BEGIN").table().insert(2).xid()
    position = parse_position(str(fed(stream_at(START), log)[-1].position))  # type: ignore[union-attr]
    assert position.awaited({ITEM.id}.__contains__) == {}
    assert str(position.gtids) == f"{UUID}:1-9:11"
    assert str(position.gtids_with_prepared()) == f"{UUID}:1-11"
    again = stream_at(position)
    assert fed(again, Log(log.offset).gtid(12).query(f"XA COMMIT {XID}")) == []
    assert str(again.position.resume_position.gtids) == f"{UUID}:1-12"
    assert not again.position.resume_position.skipped


def test_one_phase_is_an_ordinary_transaction() -> None:
    log = Log().gtid(10).query(f"XA START {XID}").table().insert(1).query(f"XA END {XID}")
    changes = fed(stream_at(START), log.prepare("a", one_phase=True))
    assert [type(change) for change in changes] == [Begin, Rows, Commit]


@pytest.mark.parametrize("place", [None, UNKNOWN_PLACE])
def test_a_commit_of_rows_prepared_before_the_start_stops(place: str | None) -> None:
    xa = {} if place is None else {XID: place}
    start = MySQLPosition("s", "binlog.000001", 4, START.executed, prepared=xa)
    with pytest.raises(SourceError, match="prepared before"):
        fed(stream_at(start), Log().gtid(10).query(f"XA COMMIT {XID}"))
    assert fed(stream_at(start), Log().gtid(10).query(f"XA ROLLBACK {XID}")) == []


def test_a_commit_whose_rows_every_reader_has_seen_is_skipped() -> None:
    start = MySQLPosition("s", "binlog.000001", 4, START.executed, prepared={XID: ""})
    assert fed(stream_at(start), Log().gtid(10).query(f"XA COMMIT {XID}")) == []


def test_many_prepared_rows_spill_to_disk_and_return_in_order() -> None:
    transaction = PreparedTransaction()
    expected: list[int] = []
    for number in range(3):
        transaction.changes.append(Rows(ITEM, "insert", None, [(number,)], size=65 << 20))
        transaction.spill()
        expected.append(number)
    assert transaction.changes == []
    transaction.changes.append(Rows(ITEM, "insert", None, [(3,)], size=10))
    transaction.spill()
    assert transaction
    found = inserted([change for part in transaction.release() for change in part])
    assert found == [*expected, 3]


def test_many_prepared_cascades_spill_to_disk() -> None:
    """Their values take memory as rows do."""
    transaction = PreparedTransaction()
    values: list[Row] = [(0,)] * (1 << 18)
    change = Cascade(ITEM.id, ("id",), values, values, (ITEM,))
    transaction.changes += [change, change]
    transaction.spill()
    assert transaction.changes == []
    assert [each for part in transaction.release() for each in part] == [change, change]
