"""
Releases that are too old, too new, or whose passwords have an old format.
"""

from __future__ import annotations

import pymysql
import pytest

from engine.databases.mysql.connect import connect, query, translate_errors
from engine.errors import SourceError
from engine.sandbox import Server, start_mariadb
from sources.mysql.releases import supported
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.mysql_sessions import with_user
from tests.support.servers import connect_mysql, obtain


def old_password_error(server: Server) -> SourceError:
    with pytest.raises(SourceError) as caught:
        connect(with_user(server, "old:secret"))
    return caught.value


def make_old_password(server: Server) -> None:
    with connect_mysql(server) as connection:
        query(connection, "SET GLOBAL secure_auth = OFF")
        query(connection, "CREATE USER old@'%' IDENTIFIED BY 'secret'")
        query(connection, "SET old_passwords = 1")
        if server.version.startswith("5.6."):
            plugin = "UPDATE mysql.user SET plugin = 'mysql_old_password' WHERE User = 'old'"
            query(connection, plugin)
            query(connection, "FLUSH PRIVILEGES")
        query(connection, "SET PASSWORD FOR old@'%' = OLD_PASSWORD('secret')")


def check_old_password(server: Server) -> None:
    make_old_password(server)
    with connect_mysql(server) as connection:
        for secure in ("OFF", "ON"):
            query(connection, f"SET GLOBAL secure_auth = {secure}")
            error = old_password_error(server)
            assert not error.retryable
            assert "before MySQL 4.1" in str(error)
            assert "SET PASSWORD" in error.hint
            assert "secret" not in str(error)
        query(connection, "DROP USER old@'%'")


def test_an_old_password_is_named_with_its_remedy() -> None:
    with obtain(start_mariadb) as server:
        check_old_password(server)


@pytest.mark.slow
def test_an_old_password_of_an_old_server(old_server: Server) -> None:
    if old_server.version.startswith("5.7."):
        pytest.skip("MySQL 5.7 has no old passwords")
    check_old_password(old_server)


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (1115, "Unknown character set: 'utf8mb4'", "too old"),
        (2059, "Authentication plugin 'auth_gssapi_client' not configured", "auth_gssapi_client"),
    ],
)
def test_a_login_that_cannot_succeed_is_not_repeated(code: int, text: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught, translate_errors():
        raise pymysql.OperationalError(code, text)
    assert not caught.value.retryable
    assert caught.value.hint


@pytest.mark.parametrize("version", ["5.1.73-log", "5.5.30-MariaDB"])
def test_a_release_that_is_too_old_is_refused(version: str) -> None:
    with obtain(lambda: start_mariadb(options=[f"--version={version}"])) as server:
        source = MySQLSource(MySQLSettings(url=server.url))
        with pytest.raises(SourceError, match="too old") as caught:
            source.check()
        assert supported() in caught.value.hint
        with Following(source, None, ()) as following:
            assert "too old" in str(following.failure())


def test_a_release_newer_than_the_tests_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with obtain(lambda: start_mariadb(options=["--version=13.0.1-MariaDB"])) as server:
        source = MySQLSource(MySQLSettings(url=server.url))
        (finding,) = (each for each in source.check() if each.subject == "server")
        source.close()
    assert finding.level == "warning"
    assert "newer" in finding.message
    assert supported() in finding.message
    assert finding.action
    assert "MariaDB 13.0.1 is newer" in caplog.text
