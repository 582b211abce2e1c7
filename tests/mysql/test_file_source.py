"""
Log files as a source. Each recorded log comes with the tables that its server had at the end.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.change import Begin, Change, Commit, Heartbeat, Rows
from engine.errors import ConfigError, DecodeError, SourceError
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition
from sources.mysql.settings import BinlogFileSettings
from tests.support.changes import Replica
from tests.support.recorded_logs import FIXTURES, RECORDED, events, recorded


def source(path: Path, *tables: str) -> BinlogFileSource:
    return BinlogFileSource(
        BinlogFileSettings(url=f"mysql-binlog:{path}", tables=tables or ("rec.*",))
    )


def read(path: Path, *tables: str) -> list[Change]:
    return [change for part in source(path, *tables).stream(None, ()) for change in part]


def as_text(replica: Replica, table: str) -> list[list[str | None]]:
    return sorted(
        ([None if cell is None else str(cell) for cell in row] for row in replica.rows[table]),
        key=str,
    )


# -- recorded logs ---------------------------------------------------------------------------------


@recorded
def test_the_changes_give_the_tables_of_the_server(name: str) -> None:
    replica = Replica()
    replica.apply(read(FIXTURES / name))
    final = json.loads((FIXTURES / name / "final.json").read_text())
    assert {table: as_text(replica, table) for table in final} == final
    assert not replica.inside


@recorded
def test_a_stream_can_resume_at_every_commit(name: str) -> None:
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
    """The changes after a commit, without table versions, which a restart may change."""
    start = changes.index(commit) + 1 if commit is not None else 0
    return [
        (change.table.id, change.op, change.before, change.after)
        if isinstance(change, Rows)
        else (type(change), getattr(change, "transaction", ""))
        for change in changes[start:]
    ]


@recorded
def test_tables_that_are_not_followed_give_no_changes(name: str) -> None:
    changes = read(FIXTURES / name, "rec.counted")
    tables = {change.table.id.name for change in changes if isinstance(change, Rows)}
    assert tables == {"counted"}
    begins = [change for change in changes if isinstance(change, Begin)]
    assert len(begins) == 4  # CREATE, two INSERTs, and a TRUNCATE between them


@recorded
def test_the_position_equals_the_log_positions_of_events(name: str) -> None:
    """The counted offsets equal the log positions of those events that have one."""
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


def test_gtids_are_read_with_their_tags() -> None:
    stream = Stream(
        MySQLPosition("", "binlog.000002", 4, GtidSet()), Tracking((), lambda id: False)
    )
    for _, found in events("mysql-9.7"):
        for _ in stream.feed(found):
            pass
    sources = stream.position.resume_position.gtids
    assert isinstance(sources, GtidSet)
    assert sorted(source.partition(":")[2] for source in sources.sources) == ["", "tagged"]


def test_each_domain_has_its_own_gtid() -> None:
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


def test_a_cut_off_event_at_the_end_is_the_end_of_the_log(tmp_path: Path) -> None:
    data = (FIXTURES / "mysql-9.7" / "binlog.000002").read_bytes()
    (tmp_path / "binlog.000001").write_bytes(data[:-100])
    assert [change for change in read(tmp_path) if isinstance(change, Commit)]


def test_a_cut_off_event_before_the_last_file_is_an_error(tmp_path: Path) -> None:
    data = (FIXTURES / "mysql-9.7" / "binlog.000002").read_bytes()
    (tmp_path / "binlog.000001").write_bytes(data[:-100])
    (tmp_path / "binlog.000002").write_bytes(data)
    with pytest.raises(DecodeError, match="cut off") as caught:
        read(tmp_path)
    assert caught.value.position is not None
    assert caught.value.position.startswith("binlog.000001:")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
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
def test_a_file_that_is_not_a_plain_log_is_refused(
    tmp_path: Path, magic: bytes, error: type[Exception], words: str
) -> None:
    (tmp_path / "binlog.000001").write_bytes(magic + bytes(100))
    with pytest.raises(error, match=words):
        read(tmp_path)
    assert [finding.level for finding in source(tmp_path).check()] == ["error"]


def test_position_and_backlog_of_files() -> None:
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


def test_a_log_on_disk_ends_with_one_heartbeat() -> None:
    for name in RECORDED:
        changes = list(read(FIXTURES / name))
        beats = [change for change in changes if isinstance(change, Heartbeat)]
        assert beats == changes[-1:]
