"""What the source's log holds after a position, and how long it is kept."""

from __future__ import annotations

import pytest

from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.log_ahead import kept_seconds, transactions_between
from sources.mysql.position import MySQLPosition
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer

A, B = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"


def at(gtids: GtidSet | DomainState | None) -> MySQLPosition:
    return MySQLPosition("s", "binlog.000001", 4, gtids)


@pytest.mark.parametrize(
    ("position", "end", "transactions"),
    [
        (f"{A}:1-5", f"{A}:1-5", 0),
        (f"{A}:1-5", f"{A}:1-9", 4),
        (f"{A}:1-3:5", f"{A}:1-9", 5),
        (f"{A}:1-5", f"{A}:1-5,{B}:1-100", 100),
        (f"{A}:1-5,{B}:1-2", f"{A}:3-4:8-9", 2),
        ("", f"{A}:1-5:tag:1-2", 7),
    ],
)
def test_transactions_by_gtids_of_mysql(position: str, end: str, transactions: int) -> None:
    found = transactions_between(at(GtidSet.parse(position)), at(GtidSet.parse(end)))
    assert found == transactions


def test_transactions_by_gtids_of_mariadb() -> None:
    position, end = DomainState.parse("0-1-7,2-1-5"), DomainState.parse("0-1-9,1-1-3,2-1-5")
    assert transactions_between(at(position), at(end)) == 5
    assert transactions_between(at(None), at(end)) is None


@pytest.mark.parametrize(
    ("variables", "newest", "lag_seconds", "kept"),
    [
        ({"binlog_expire_logs_seconds": "3600"}, True, 99_999.0, 3600.0),
        ({"binlog_expire_logs_seconds": "3600"}, False, 600.0, 3000.0),
        ({"binlog_expire_logs_seconds": "3600"}, False, 99_999.0, 0.0),
        ({"binlog_expire_logs_seconds": "0", "expire_logs_days": "2"}, False, 0.0, 172_800.0),
        ({"expire_logs_days": "0.5"}, True, 0.0, 43_200.0),
        ({"binlog_expire_logs_seconds": "0", "expire_logs_days": "0"}, False, 9.0, None),
        (
            {"binlog_expire_logs_seconds": "60", "binlog_expire_logs_auto_purge": "OFF"},
            *(False, 9.0, None),
        ),
        ({}, False, 9.0, None),
    ],
)
def test_how_long_the_log_is_kept(
    variables: dict[str, str], newest: bool, lag_seconds: float, kept: float | None
) -> None:
    assert kept_seconds(variables, newest, lag_seconds) == kept


def test_a_server_tells_what_is_ahead(
    mysql_family: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    database = fresh_mysql_database(mysql_family)
    writer, source = Writer(mysql_family, database), source_of(mysql_family, database)
    writer("CREATE TABLE t (id INT PRIMARY KEY)")
    before = source.position()
    assert source.log_ahead(before, 0.0).transactions == 0
    writer(*(f"INSERT INTO t VALUES ({number})" for number in range(3)))
    ahead = source.log_ahead(before, 10.0)
    assert ahead.transactions == 3
    writer("FLUSH BINARY LOGS")
    older = source.log_ahead(before, 10.0).kept_seconds
    if ahead.kept_seconds is None:
        assert older is None  # MariaDB keeps its log by default
    else:
        assert older == ahead.kept_seconds - 10.0
    source.close()
    writer.connection.close()
