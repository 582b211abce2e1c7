"""
Sessions: logging in, missing rights, timeouts, interruption and lost connections.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from uuid import uuid4

import pymysql
import pytest

from engine.databases.mysql.connect import connect, query, translate_errors
from engine.databases.side import TARGET
from engine.errors import SinkLost, SourceError, SourceLost
from engine.sandbox import Server
from engine.sandbox.proxy import Proxy
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.mysql_sessions import Writer, cipher, with_user
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until


@pytest.fixture
def user(mysql_family: AnyServer) -> Iterator[str]:
    """``name:password``, quoted for a URL, of a user with the rights to follow the log."""
    name = f"t_{uuid4().hex[:12]}"
    with connect_mysql(mysql_family) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 's€cret/:@'")
        cursor.execute(f"GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {name}@'%'")
        yield f"{name}:s%E2%82%ACcret%2F%3A%40"
        cursor.execute(f"DROP USER {name}@'%'")


def test_a_password_is_accepted_without_tls(
    mysql_family: AnyServer, user: str, writer: Writer
) -> None:
    """MySQL's caching_sha2_password then needs the server's RSA key. MariaDB uses
    mysql_native_password.
    """
    settings = with_user(mysql_family, user, tls="disable", tables=(f"{writer.database}.*",))
    assert cipher(settings) == ""
    source = MySQLSource(settings)
    findings = source.check()
    assert [finding for finding in findings if finding.level == "error"] == []
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO t VALUES (1, 'x')")
        following.wait()
    assert following.inserted() == [1]


def test_a_wrong_password_is_refused_and_not_shown(mysql_family: AnyServer, user: str) -> None:
    with pytest.raises(SourceError) as caught:
        connect(with_user(mysql_family, user.partition(":")[0] + ":wr0ng-secret"))
    assert not caught.value.retryable
    assert "wr0ng-secret" not in str(caught.value) + caught.value.hint


def test_the_preflight_names_missing_rights(mysql_family: AnyServer) -> None:
    with connect_mysql(mysql_family) as connection, connection.cursor() as cursor:
        name = f"t_{uuid4().hex[:12]}"
        cursor.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 'x'")
        try:
            findings = MySQLSource(with_user(mysql_family, f"{name}:x")).check()
        finally:
            cursor.execute(f"DROP USER {name}@'%'")
    errors = {finding.code: finding for finding in findings if finding.level == "error"}
    assert set(errors) == {"MY020", "MY030"}  # without rights it sees no table
    rights = errors["MY020"]
    assert "GRANT" in rights.action
    assert "REPLICATION SLAVE" in rights.action


def test_a_damaged_answer_is_a_lost_connection(mysql_family: AnyServer) -> None:
    """GIVEN answers in which a bit is flipped WHEN they can be read THEN they are, because the
    protocol has no checksum; else the connection counts as lost."""
    sql = "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS LIMIT {}"
    lost = 0
    with Proxy(mysql_family.host, mysql_family.port) as proxy:
        settings = MySQLSettings(
            url=f"mysql://root@127.0.0.1:{proxy.port}/", tls="disable", timeout_seconds=0.5
        )
        for rows in range(12):
            with closing(connect(settings)) as connection:
                proxy.flip()
                try:
                    query(connection, sql.format(rows))
                except SourceLost:
                    lost += 1
                wait_until(lambda: not proxy.flips_left)
    assert lost


def test_a_refused_connection_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceLost):
        connect(MySQLSettings(url=f"mysql://root@127.0.0.1:{port}/", timeout_seconds=2.0))


def test_the_errors_of_a_sink_name_the_target() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = MySQLSettings(url=f"mysql://root@127.0.0.1:{port}/", timeout_seconds=2.0)
    with pytest.raises(SinkLost, match="no connection to the target"):
        connect(settings, side=TARGET)


def test_a_silent_server_is_lost_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mysql://root@127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(SourceLost):
            connect(MySQLSettings(url=url, timeout_seconds=0.3))


def test_stop_and_close_interrupt_a_login() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = MySQLSource(
            MySQLSettings(url=f"mysql://root@127.0.0.1:{server.getsockname()[1]}/")
        )
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(source.position)
            accepted, _ = server.accept()
            wait_until(lambda: source._asked is not None and source._asked.open)
            started = time.monotonic()
            source.stop()
            source.close()
            with pytest.raises(SourceLost):
                asking.result(timeout=20)
            took = time.monotonic() - started
        accepted.close()
    assert took < 2


def test_stop_interrupts_a_query(writer: Writer, source: MySQLSource) -> None:
    table = next(each for each in source.catalog() if each.id.name == "t")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(
            source._ask, lambda session: query(session, "SELECT SLEEP(20), 'asked'")
        )
        wait_until(lambda: "'asked'" in str(query(writer.connection, "SHOW FULL PROCESSLIST")[1:]))
        started = time.monotonic()
        source.stop()
        with pytest.raises(SourceLost):
            asking.result(timeout=15)
        assert time.monotonic() - started < 5
    source.close()
    assert source.estimates([table])[table.id] >= 0


def test_a_broken_session_is_opened_again(writer: Writer, source: MySQLSource) -> None:
    if not isinstance(writer.server, Server):
        pytest.skip("kills connections")
    source.position()
    for (id,) in query(
        writer.connection,
        "SELECT id FROM information_schema.processlist"
        " WHERE command = 'Sleep' AND db IS NULL AND id <> CONNECTION_ID()",
    ):
        writer(f"KILL {id}")
    assert source.position()


def test_a_bug_in_tailrace_is_not_a_lost_connection(
    writer: Writer, source: MySQLSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object) -> None:
        int("x")

    monkeypatch.setattr("sources.mysql.source.read_catalog", faulty)
    with pytest.raises(ValueError, match="invalid literal"):
        source.catalog()


@pytest.mark.parametrize("code", [1062, 1064, 1292, 1366, 1525, 1644])
def test_a_value_in_the_text_of_an_error_is_not_shown(code: int) -> None:
    with pytest.raises(SourceError, match=f"error {code}") as caught, translate_errors():
        raise pymysql.DataError(code, "Incorrect value: 'PLANTED'")
    assert "PLANTED" not in str(caught.value)
