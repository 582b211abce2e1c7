"""
The stream: from events that a test has written to changes and positions.
"""

from __future__ import annotations

import struct

import pytest

from engine.change import Begin, Commit, Rows, SchemaChange
from engine.errors import DecodeError, SchemaError, SourceError, UnloggedChange
from engine.schema import Column, Table, Type
from sources.mysql.binlog import events as ev
from sources.mysql.gtid import GtidSet
from sources.mysql.position import MySQLPosition, parse_position
from tests.support.written_log import ITEM, PLAIN, START, UUID, Log, fed, inserted, stream_at


def test_a_transaction_is_begin_rows_and_commit() -> None:
    stream = stream_at(START)
    log = Log().gtid(10).query("BEGIN").table().insert(1, last=False).insert(2).xid()
    begin, rows, commit = fed(stream, log)
    assert isinstance(begin, Begin)
    assert (begin.transaction, str(begin.position)) == (f"{UUID}:10", str(START))
    assert inserted([rows]) == [1, 2]
    assert isinstance(commit, Commit)
    assert parse_position(str(commit.position)).gtids == GtidSet.parse(f"{UUID}:1-10")
    assert commit.position.offset == log.offset  # type: ignore[attr-defined]
    assert commit.committed_at == 1_700_000_000


def test_consecutive_rows_of_a_transaction_are_joined() -> None:
    log = Log().gtid(10).query("BEGIN").table()
    for id in range(3):
        log.insert(id, last=id == 2)
    log.xid().gtid(11).query("BEGIN").table().insert(3).xid()
    runs = [change for change in fed(stream_at(START), log) if isinstance(change, Rows)]
    assert [inserted([run]) for run in runs] == [[0, 1, 2], [3]]
    assert runs[0].size == 3 * runs[1].size


def test_joined_rows_have_a_maximum_size() -> None:
    log, count = Log().gtid(10).query("BEGIN"), 20_000
    for id in range(count):
        log.table().insert(id)
    runs = [change for change in fed(stream_at(START), log.xid()) if isinstance(change, Rows)]
    assert inserted(list(runs)) == list(range(count))
    assert len(runs) > 1
    assert max(run.size for run in runs) <= (64 << 10) + runs[0].size // len(runs[0])


def test_events_can_be_fed_one_at_a_time() -> None:
    log = Log().gtid(10).query("BEGIN").table().insert(1).xid()
    stream = stream_at(START)
    changes = [change for event in log.events for part in stream.feed([event]) for change in part]
    assert [type(change) for change in changes] == [Begin, Rows, Commit]
    assert stream.inside is False


def test_events_of_other_tables_only_move_the_position() -> None:
    stream = stream_at(START)
    log = Log().gtid(10).query("BEGIN").table("other").insert(1).xid()
    log.gtid(11).query("GRANT SELECT ON shop.* TO someone")
    assert fed(stream, log) == []
    assert stream.position.moved
    assert str(stream.position.resume_position.gtids) == f"{UUID}:1-11"


def test_a_group_can_end_with_a_commit_statement() -> None:
    log = Log().query("BEGIN").table().insert(1).query("COMMIT")
    begin, _, commit = fed(stream_at(PLAIN), log)
    assert isinstance(begin, Begin)
    assert begin.transaction == "binlog.000001:4"
    assert isinstance(commit, Commit)


def test_a_rolled_back_group_stops_if_it_has_rows_of_followed_tables() -> None:
    log = Log().query("BEGIN").table().insert(1).query("ROLLBACK")
    with pytest.raises(SourceError, match="rolled back") as caught:
        fed(stream_at(PLAIN), log)
    assert caught.value.hint
    other = Log().query("BEGIN").table("other").insert(1).query("ROLLBACK")
    assert fed(stream_at(PLAIN), other) == []


def test_savepoints_are_ignored() -> None:
    log = Log().query("BEGIN").query("SAVEPOINT `a`").table().insert(1).xid()
    assert inserted(fed(stream_at(PLAIN), log)) == [1]


def test_dml_in_statement_format_on_a_followed_table_stops() -> None:
    log = Log().query("BEGIN").query("UPDATE item SET id = id + 1")
    with pytest.raises(SchemaError) as caught:
        fed(stream_at(PLAIN), log)
    assert "binlog_format" in caught.value.hint
    assert caught.value.table == "shop.item"
    assert caught.value.position == f"binlog.000001:{log.offset}"
    assert fed(stream_at(PLAIN), Log().query("BEGIN").query("DELETE FROM x.y").xid()) == []


def test_ddl_inside_a_group_takes_effect_at_its_place() -> None:
    log = Log().gtid(10).query("BEGIN").query("CREATE TABLE made (id INT) START TRANSACTION")
    log.table("made").insert(5).xid()
    _, created, rows, commit = fed(stream_at(START), log)
    assert isinstance(created, SchemaChange)
    assert isinstance(rows, Rows)
    assert rows.table == created.after
    assert isinstance(commit, Commit)


def test_a_table_map_of_another_shape_is_an_unlogged_change() -> None:
    """GIVEN a statement that is not in the log WHEN a table map shows another shape THEN the table
    has an unlogged change, because the values of existing rows in a new column are not known."""
    old = Table(ITEM.id, (*ITEM.columns, Column("gone", Type("int32"), "int")), (0,))
    stream = stream_at(PLAIN, old)
    with pytest.raises(UnloggedChange, match="it has 2 columns, the log has 1"):
        fed(stream, Log().query("BEGIN").table().insert(1).xid())


def test_two_table_maps_can_precede_the_rows() -> None:
    log = Log().query("BEGIN").table("other").table().insert(1).xid()
    assert inserted(fed(stream_at(PLAIN), log)) == [1]


def test_a_table_map_is_valid_until_its_statement_ends() -> None:
    log = Log().query("BEGIN").table().insert(1).insert(2)
    with pytest.raises(DecodeError, match="table map"):
        fed(stream_at(PLAIN), log)


def test_an_incident_stops_the_stream() -> None:
    body = struct.pack("<H", 1) + b"\x05crash"
    with pytest.raises(SourceError, match="crash"):
        fed(stream_at(PLAIN), Log().add(ev.INCIDENT, body))


def test_unknown_events_stop_the_stream_unless_they_are_ignorable() -> None:
    with pytest.raises(DecodeError, match="type 99"):
        fed(stream_at(PLAIN), Log().add(99, b""))
    assert fed(stream_at(PLAIN), Log().add(99, b"", flags=ev.MAY_BE_IGNORED)) == []
    with pytest.raises(SourceError, match="type 172"):
        fed(stream_at(PLAIN), Log().add(172, b""))


def test_a_wrong_checksum_stops_the_stream() -> None:
    log = Log().query("BEGIN")
    log.events[0] = log.events[0][:-1] + bytes([log.events[0][-1] ^ 1])
    with pytest.raises(DecodeError, match="checksum"):
        fed(stream_at(PLAIN), log)


def test_offsets_are_counted_beyond_four_gigabytes() -> None:
    start = MySQLPosition("s", "binlog.000001", (1 << 32) - 10)
    log = Log(start.offset).query("BEGIN").table().insert(1).xid()
    commit = fed(stream_at(start), log)[-1]
    assert isinstance(commit, Commit)
    assert commit.position.offset == log.offset > 1 << 32  # type: ignore[attr-defined]


def test_offsets_are_counted_where_the_log_has_no_positions() -> None:
    log = Log()
    log.query("BEGIN")
    body = log.table().events.pop()[19:-4]
    log.offset -= 19 + len(body) + 4
    log.add(ev.TABLE_MAP, body, log_pos=0)
    log.insert(1).xid()
    commit = fed(stream_at(PLAIN), log)[-1]
    assert commit.position.offset == log.offset  # type: ignore[union-attr]


def test_artificial_events_do_not_move_the_offset() -> None:
    log = Log().add(ev.ROTATE, struct.pack("<Q", 4) + b"binlog.000001", flags=ev.ARTIFICIAL)
    log.offset = 4
    log.add(ev.MARIADB_GTID_LIST, bytes(4), flags=ev.ARTIFICIAL, log_pos=0)
    log.offset = 4
    stream = stream_at(PLAIN)
    changes = fed(stream, log.query("BEGIN").table().insert(1).xid())
    assert changes[-1].position.offset == log.offset  # type: ignore[union-attr]


def test_a_rotate_leads_to_the_next_file() -> None:
    log = Log().add(ev.ROTATE, struct.pack("<Q", 4) + b"binlog.000002")
    log.offset = 4
    commit = fed(stream_at(PLAIN), log.query("BEGIN").table().insert(1).xid())[-1]
    assert (commit.position.file, commit.position.offset) == (  # type: ignore[union-attr]
        "binlog.000002",
        log.offset,
    )


def test_a_heartbeat_moves_past_events_that_the_server_skips() -> None:
    stream = stream_at(PLAIN)
    fed(stream, Log().add(ev.HEARTBEAT, b"binlog.000001", log_pos=5000))
    assert stream.position.resume_position.offset == 5000
    fed(stream, Log().add(ev.HEARTBEAT_2, b"\x01\x0dbinlog.000001\x02\x03\xfc\x70\x17\x00"))
    assert stream.position.resume_position.offset == 6000
    fed(stream, Log().add(ev.HEARTBEAT, b"binlog.000009", log_pos=9000))
    assert stream.position.resume_position.offset == 6000


def test_a_position_never_goes_back_while_the_server_catches_up() -> None:
    """With GTIDs a server starts at the beginning of the file that has the first missing one."""
    start = MySQLPosition("s", "binlog.000003", 900, START.executed)
    stream = stream_at(start)
    log = Log().add(ev.ROTATE, struct.pack("<Q", 4) + b"binlog.000003", flags=ev.ARTIFICIAL)
    fed(stream, log)
    assert str(stream.position.resume_position) == str(start)
    late = Log(900).gtid(10).query("BEGIN").table().insert(1).xid()
    begin, _, commit = fed(stream, late)
    assert str(begin.position) == str(start)  # type: ignore[union-attr]
    assert commit.position.offset == late.offset  # type: ignore[union-attr]
