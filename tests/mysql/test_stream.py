"""
From recorded logs to changes. The judge is what the server itself said its tables held at the end.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from engine.change import Begin, Change, Commit, Heartbeat, Rows, SchemaChange
from engine.errors import ConfigError, DecodeError, SchemaError, SourceError
from engine.schema import Column, Table, TableId, Type
from sources.mysql.binlog import compression as packed
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.binlog.xa import PreparedTransaction
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import UNKNOWN_PLACE, MySQLPosition, parse_position
from sources.mysql.settings import BinlogFileSettings
from tests.support.changes import Replica

FIXTURES = Path(__file__).parents[1] / "fixtures" / "binlog"
RECORDED = ("mysql-9.7", "mariadb-10.11", "mariadb-11.8")
UUID = "aaaaaaaa-0000-0000-0000-000000000001"

recorded = pytest.mark.parametrize("name", RECORDED)


def source(path: Path, *tables: str) -> BinlogFileSource:
    return BinlogFileSource(
        BinlogFileSettings(url=f"mysql-binlog:{path}", tables=tables or ("rec.*",))
    )


def read(path: Path, *tables: str) -> list[Change]:
    return [change for part in source(path, *tables).stream(None, ()) for change in part]


def events(name: str) -> Iterator[tuple[str, list[bytes]]]:
    """The events of each recorded file."""
    for path in sorted((FIXTURES / name).glob("binlog.*")):
        found, rest = packed.cut_events(path.read_bytes()[4:])
        assert not rest
        yield path.name, found


def as_text(replica: Replica, table: str) -> list[list[str | None]]:
    return sorted(
        ([None if cell is None else str(cell) for cell in row] for row in replica.rows[table]),
        key=str,
    )


# -- recorded logs ---------------------------------------------------------------------------------


@recorded
def test_the_log_leads_to_what_the_server_held(name: str) -> None:
    replica = Replica()
    replica.apply(read(FIXTURES / name))
    final = json.loads((FIXTURES / name / "final.json").read_text())
    assert {table: as_text(replica, table) for table in final} == final
    assert not replica.inside


@recorded
def test_a_stream_goes_on_at_every_commit(name: str) -> None:
    changes = read(FIXTURES / name)
    commits = [change for change in changes if isinstance(change, Commit)]
    whole = _after(changes, None)
    for commit in commits:
        replica = Replica()
        replica.apply(changes[: changes.index(commit) + 1])
        tables = list(replica.tables.values())
        rest = source(FIXTURES / name).stream(str(commit.position), tables)
        again = _after([change for part in rest for change in part], None)
        assert again == whole[len(whole) - len(again) :]
        assert len(again) == len(_after(changes, commit))


def _after(changes: list[Change], commit: Commit | None) -> list[object]:
    """What comes after a commit, without what a restart may change: tables' versions."""
    start = changes.index(commit) + 1 if commit is not None else 0
    return [
        (change.table.id, change.op, change.before, change.after)
        if isinstance(change, Rows)
        else (type(change), getattr(change, "transaction", ""))
        for change in changes[start:]
    ]


@recorded
def test_tables_that_are_not_followed_leave_nothing(name: str) -> None:
    changes = read(FIXTURES / name, "rec.counted")
    tables = {change.table.id.name for change in changes if isinstance(change, Rows)}
    assert tables == {"counted"}
    begins = [change for change in changes if isinstance(change, Begin)]
    assert len(begins) == 4  # created, two inserts, one TRUNCATE between them


@recorded
def test_the_position_is_the_one_of_the_log(name: str) -> None:
    """The offsets that are counted are those that the server wrote where it wrote any."""
    for file, found in events(name):
        stream = Stream(MySQLPosition("", file, 4), Tracking((), lambda id: False))
        for event in found:
            for _ in stream.feed([event]):
                pass
            log_pos = ev.read_header(event)[4]
            if log_pos and not stream.unfinished and event[4] != ev.ROTATE:
                assert stream.position.resume_position.offset == log_pos
        assert (
            stream.position.offset == 4 if found[-1][4] == ev.ROTATE else stream.position.offset > 4
        )


def test_gtids_are_counted_with_their_gaps() -> None:
    stream = Stream(
        MySQLPosition("", "binlog.000002", 4, GtidSet()), Tracking((), lambda id: False)
    )
    for _, found in events("mysql-9.7"):
        for _ in stream.feed(found):
            pass
    sources = stream.position.resume_position.gtids
    assert isinstance(sources, GtidSet)
    assert sorted(source.partition(":")[2] for source in sources.sources) == ["", "tagged"]


def test_domains_are_counted_one_by_one() -> None:
    stream = Stream(
        MySQLPosition("", "binlog.000002", 4, DomainState()), Tracking((), lambda id: False)
    )
    for _, found in events("mariadb-11.8"):
        for _ in stream.feed(found):
            pass
    assert isinstance(stream.position.resume_position.gtids, DomainState)
    assert sorted(stream.position.resume_position.gtids.domains) == [0, 7]


@recorded
def test_xa_transactions_take_effect_where_they_are_committed(name: str) -> None:
    changes = read(FIXTURES / name, "rec.later")
    rows = [change.after for change in changes if isinstance(change, Rows)]
    assert rows == [
        [(3, "between")],
        [(18446744073709551615, "kept")],
        [(4, "once")],
    ]


# -- files -----------------------------------------------------------------------------------------


def test_a_last_event_that_is_cut_off_is_the_logs_end(tmp_path: Path) -> None:
    data = (FIXTURES / "mysql-9.7" / "binlog.000002").read_bytes()
    (tmp_path / "binlog.000001").write_bytes(data[:-100])
    assert [change for change in read(tmp_path) if isinstance(change, Commit)]


def test_a_cut_in_the_middle_of_the_log_is_damage(tmp_path: Path) -> None:
    data = (FIXTURES / "mysql-9.7" / "binlog.000002").read_bytes()
    (tmp_path / "binlog.000001").write_bytes(data[:-100])
    (tmp_path / "binlog.000002").write_bytes(data)
    with pytest.raises(DecodeError, match="cut off") as caught:
        read(tmp_path)
    assert caught.value.position is not None
    assert caught.value.position.startswith("binlog.000001:")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    data = (FIXTURES / "mysql-9.7" / "binlog.000002").read_bytes()
    (tmp_path / "binlog.000005").write_bytes(data)
    start = MySQLPosition("", "binlog.000004", 4)
    with pytest.raises(SourceError, match=r"binlog\.000004"):
        list(source(tmp_path).stream(str(start), ()))
    with pytest.raises(ConfigError):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("magic", "error", "words"),
    [(b"\xfdbin", SourceError, "encrypted"), (b"text", DecodeError, "does not begin")],
)
def test_a_file_that_is_no_plain_log_is_refused(
    tmp_path: Path, magic: bytes, error: type[Exception], words: str
) -> None:
    (tmp_path / "binlog.000001").write_bytes(magic + bytes(100))
    with pytest.raises(error, match=words):
        read(tmp_path)
    assert [finding.level for finding in source(tmp_path).check()] == ["error"]


def test_files_know_their_end_and_what_is_left() -> None:
    files = source(FIXTURES / "mysql-9.7")
    end = files.position()
    changes = read(FIXTURES / "mysql-9.7")
    first = next(change for change in changes if isinstance(change, Commit))
    assert files.reached(end, str(first.position))
    assert not files.reached(str(first.position), end)
    assert (files.backlog(end), (files.backlog(str(first.position)) or 0) > 1000) == (0, True)
    begins = [change for change in changes if isinstance(change, Begin)]
    assert files.includes(str(first.position), begins[0])
    assert not files.includes(str(first.position), begins[1])


# -- made-up logs ----------------------------------------------------------------------------------


class Log:
    """Events as a server would write them, with a checksum, at consecutive places."""

    def __init__(self, offset: int = 4) -> None:
        self.offset = offset
        self.events: list[bytes] = []

    def add(self, kind: int, body: bytes, *, log_pos: int | None = None, flags: int = 0) -> Log:
        size = 19 + len(body) + 4
        self.offset += size
        place = self.offset & 0xFFFFFFFF if log_pos is None else log_pos
        event = struct.pack("<IBIIIH", 1_700_000_000, kind, 1, size, place, flags) + body
        self.events.append(event + crc32(event).to_bytes(4, "little"))
        return self

    def query(self, text: str, schema: str = "shop") -> Log:
        name = schema.encode()
        head = struct.pack("<IIBHH", 1, 0, len(name), 0, 0)
        return self.add(ev.QUERY, head + name + b"\0" + text.encode())

    def gtid(self, number: int) -> Log:
        uuid = bytes.fromhex(UUID.replace("-", ""))
        return self.add(ev.GTID, struct.pack("<B16sq", 1, uuid, number))

    def table(self, name: str = "item") -> Log:
        table = name.encode()
        names = b"\x04" + b"\x03" + b"\x02id"  # COLUMN_NAME
        return self.add(
            ev.TABLE_MAP,
            b"\x07\0\0\0\0\0\x01\0\x04shop\0"
            + bytes([len(table)])
            + table
            + b"\0\x01\x03\0\0"
            + names,
        )

    def insert(self, id: int, *, last: bool = True) -> Log:
        head = b"\x07\0\0\0\0\0" + (b"\x01\0" if last else b"\0\0") + b"\x02\0"
        return self.add(ev.WRITE_ROWS_2, head + b"\x01\xff\xfe" + id.to_bytes(4, "little"))

    def xid(self) -> Log:
        return self.add(ev.XID, bytes(8))

    def prepare(self, name: str, *, one_phase: bool = False) -> Log:
        head = struct.pack("<BIII", one_phase, 1, len(name), 0)
        return self.add(ev.XA_PREPARE, head + name.encode())


ITEM = Table(TableId("shop", "item"), (Column("id", Type("int32"), "int", nullable=False),), (0,))


def stream_at(position: MySQLPosition, *tables: Table) -> Stream:
    tracking = Tracking(tables or (ITEM,), lambda id: id.schema == "shop")
    return Stream(position, tracking, checksum=True)


def fed(stream: Stream, log: Log) -> list[Change]:
    return [change for part in stream.feed(log.events) for change in part]


def inserted(changes: list[Change]) -> list[int]:
    return [row[0] for change in changes if isinstance(change, Rows) for row in change.after or ()]


START = MySQLPosition("s", "binlog.000001", 4, GtidSet.parse(f"{UUID}:1-9"))
PLAIN = MySQLPosition("s", "binlog.000001", 4)


def test_a_transaction_has_its_begin_its_rows_and_its_commit() -> None:
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


def test_rows_that_follow_each_other_are_one_run_within_a_transaction() -> None:
    log = Log().gtid(10).query("BEGIN").table()
    for id in range(3):
        log.insert(id, last=id == 2)
    log.xid().gtid(11).query("BEGIN").table().insert(3).xid()
    runs = [change for change in fed(stream_at(START), log) if isinstance(change, Rows)]
    assert [inserted([run]) for run in runs] == [[0, 1, 2], [3]]
    assert runs[0].size == 3 * runs[1].size


def test_a_run_of_rows_does_not_grow_without_end() -> None:
    log, count = Log().gtid(10).query("BEGIN"), 20_000
    for id in range(count):
        log.table().insert(id)
    runs = [change for change in fed(stream_at(START), log.xid()) if isinstance(change, Rows)]
    assert inserted(list(runs)) == list(range(count))
    assert len(runs) > 1
    assert max(run.size for run in runs) <= (64 << 10) + runs[0].size // len(runs[0])


def test_events_may_come_in_any_pieces() -> None:
    log = Log().gtid(10).query("BEGIN").table().insert(1).xid()
    stream = stream_at(START)
    changes = [change for event in log.events for part in stream.feed([event]) for change in part]
    assert [type(change) for change in changes] == [Begin, Rows, Commit]
    assert stream.inside is False


def test_what_is_not_followed_moves_the_position_in_silence() -> None:
    stream = stream_at(START)
    log = Log().gtid(10).query("BEGIN").table("other").insert(1).xid()
    log.gtid(11).query("GRANT SELECT ON shop.* TO someone")
    assert fed(stream, log) == []
    assert stream.position.moved
    assert str(stream.position.resume_position.gtids) == f"{UUID}:1-11"


def test_groups_end_with_commit_too() -> None:
    log = Log().query("BEGIN").table().insert(1).query("COMMIT")
    begin, _, commit = fed(stream_at(PLAIN), log)
    assert isinstance(begin, Begin)
    assert begin.transaction == "binlog.000001:4"
    assert isinstance(commit, Commit)


def test_a_group_that_was_rolled_back_stops_if_it_has_rows_of_ours() -> None:
    log = Log().query("BEGIN").table().insert(1).query("ROLLBACK")
    with pytest.raises(SourceError, match="rolled back") as caught:
        fed(stream_at(PLAIN), log)
    assert caught.value.hint
    other = Log().query("BEGIN").table("other").insert(1).query("ROLLBACK")
    assert fed(stream_at(PLAIN), other) == []


def test_savepoints_say_nothing() -> None:
    log = Log().query("BEGIN").query("SAVEPOINT `a`").table().insert(1).xid()
    assert inserted(fed(stream_at(PLAIN), log)) == [1]


def test_a_statement_that_changes_rows_of_ours_stops() -> None:
    log = Log().query("BEGIN").query("UPDATE item SET id = id + 1")
    with pytest.raises(SchemaError) as caught:
        fed(stream_at(PLAIN), log)
    assert "binlog_format" in caught.value.hint
    assert caught.value.table == "shop.item"
    assert caught.value.position == f"binlog.000001:{log.offset}"
    assert fed(stream_at(PLAIN), Log().query("BEGIN").query("DELETE FROM x.y").xid()) == []


def test_ddl_inside_a_group_takes_effect_in_its_place() -> None:
    log = Log().gtid(10).query("BEGIN").query("CREATE TABLE made (id INT) START TRANSACTION")
    log.table("made").insert(5).xid()
    _, created, rows, commit = fed(stream_at(START), log)
    assert isinstance(created, SchemaChange)
    assert isinstance(rows, Rows)
    assert rows.table == created.after
    assert isinstance(commit, Commit)


def test_a_shape_that_no_statement_told_comes_from_the_table_map() -> None:
    old = Table(ITEM.id, (*ITEM.columns, Column("gone", Type("int32"), "int")), (0,))
    stream = stream_at(PLAIN, old)
    _, change, rows, _ = fed(stream, Log().query("BEGIN").table().insert(1).xid())
    assert isinstance(change, SchemaChange)
    assert change.before == old
    assert change.after is not None
    assert change.after.names == ("id",)
    assert isinstance(rows, Rows)
    assert rows.table == change.after


def test_two_tables_may_be_mapped_before_their_rows() -> None:
    log = Log().query("BEGIN").table("other").table().insert(1).xid()
    assert inserted(fed(stream_at(PLAIN), log)) == [1]


def test_a_table_map_holds_until_the_statement_ends() -> None:
    log = Log().query("BEGIN").table().insert(1).insert(2)
    with pytest.raises(DecodeError, match="table map"):
        fed(stream_at(PLAIN), log)


def test_an_incident_stops() -> None:
    body = struct.pack("<H", 1) + b"\x05crash"
    with pytest.raises(SourceError, match="crash"):
        fed(stream_at(PLAIN), Log().add(ev.INCIDENT, body))


def test_unknown_events_stop_unless_they_may_be_ignored() -> None:
    with pytest.raises(DecodeError, match="type 99"):
        fed(stream_at(PLAIN), Log().add(99, b""))
    assert fed(stream_at(PLAIN), Log().add(99, b"", flags=ev.MAY_BE_IGNORED)) == []
    with pytest.raises(SourceError, match="type 172"):
        fed(stream_at(PLAIN), Log().add(172, b""))


def test_a_wrong_checksum_stops() -> None:
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


def test_offsets_are_counted_where_the_log_has_none() -> None:
    log = Log()
    log.query("BEGIN")
    body = log.table().events.pop()[19:-4]
    log.offset -= 19 + len(body) + 4
    log.add(ev.TABLE_MAP, body, log_pos=0)
    log.insert(1).xid()
    commit = fed(stream_at(PLAIN), log)[-1]
    assert commit.position.offset == log.offset  # type: ignore[union-attr]


def test_what_the_server_makes_up_does_not_count() -> None:
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


def test_a_heartbeat_moves_past_what_the_server_passes_over() -> None:
    stream = stream_at(PLAIN)
    fed(stream, Log().add(ev.HEARTBEAT, b"binlog.000001", log_pos=5000))
    assert stream.position.resume_position.offset == 5000
    fed(stream, Log().add(ev.HEARTBEAT_2, b"\x01\x0dbinlog.000001\x02\x03\xfc\x70\x17\x00"))
    assert stream.position.resume_position.offset == 6000
    fed(stream, Log().add(ev.HEARTBEAT, b"binlog.000009", log_pos=9000))
    assert stream.position.resume_position.offset == 6000


def test_a_position_never_goes_back_while_the_server_catches_up() -> None:
    """By GTIDs a server starts at the beginning of a file that holds something we lack."""
    start = MySQLPosition("s", "binlog.000003", 900, START.executed)
    stream = stream_at(start)
    log = Log().add(ev.ROTATE, struct.pack("<Q", 4) + b"binlog.000003", flags=ev.ARTIFICIAL)
    fed(stream, log)
    assert str(stream.position.resume_position) == str(start)
    late = Log(900).gtid(10).query("BEGIN").table().insert(1).xid()
    begin, _, commit = fed(stream, late)
    assert str(begin.position) == str(start)  # type: ignore[union-attr]
    assert commit.position.offset == late.offset  # type: ignore[union-attr]


# -- XA --------------------------------------------------------------------------------------------

XID = "X'61',X'',1"


def prepared(log: Log, number: int, id: int, name: str = "a") -> Log:
    xid = f"X'{name.encode().hex()}',X'',1"
    log.gtid(number).query(f"XA START {xid}").table().insert(id).query(f"XA END {xid}")
    return log.prepare(name)


def test_an_undecided_gtid_is_a_gap_in_the_position() -> None:
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


def test_the_server_sends_an_undecided_group_again() -> None:
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


def test_a_rollback_forgets_what_was_prepared() -> None:
    stream = stream_at(START)
    log = prepared(Log(), 10, 1).gtid(11).query(f"XA ROLLBACK {XID}")
    assert fed(stream, log) == []
    assert str(stream.position.resume_position.gtids) == f"{UUID}:1-11"
    assert stream.position.resume_position.prepared == {}


def test_one_phase_is_an_ordinary_transaction() -> None:
    log = Log().gtid(10).query(f"XA START {XID}").table().insert(1).query(f"XA END {XID}")
    changes = fed(stream_at(START), log.prepare("a", one_phase=True))
    assert [type(change) for change in changes] == [Begin, Rows, Commit]


@pytest.mark.parametrize("place", [None, UNKNOWN_PLACE])
def test_rows_from_before_our_beginning_are_not_lost_in_silence(place: str | None) -> None:
    xa = {} if place is None else {XID: place}
    start = MySQLPosition("s", "binlog.000001", 4, START.executed, prepared=xa)
    with pytest.raises(SourceError, match="prepared before"):
        fed(stream_at(start), Log().gtid(10).query(f"XA COMMIT {XID}"))
    assert fed(stream_at(start), Log().gtid(10).query(f"XA ROLLBACK {XID}")) == []


def test_a_decided_one_that_every_reader_saw_is_passed() -> None:
    start = MySQLPosition("s", "binlog.000001", 4, START.executed, prepared={XID: ""})
    assert fed(stream_at(start), Log().gtid(10).query(f"XA COMMIT {XID}")) == []


def test_many_held_rows_go_to_disk_and_come_back_in_order() -> None:
    held = PreparedTransaction()
    expected: list[int] = []
    for number in range(3):
        held.changes.append(Rows(ITEM, "insert", None, [(number,)], size=65 << 20))
        held.spill()
        expected.append(number)
    assert held.changes == []
    held.changes.append(Rows(ITEM, "insert", None, [(3,)], size=10))
    held.spill()
    assert held
    found = inserted([change for part in held.release() for change in part])
    assert found == [*expected, 3]


def test_a_log_on_disk_says_once_where_it_ends() -> None:
    for name in RECORDED:
        changes = list(read(FIXTURES / name))
        beats = [change for change in changes if isinstance(change, Heartbeat)]
        assert beats == changes[-1:]
