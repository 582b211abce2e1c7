"""
Releases that are too old or too new, what docs/servers.md says of the others, and old ways to
log in.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from engine.databases.mysql.connect import connect, query, translate_errors
from engine.errors import SourceError
from engine.sandbox import Server, start_mariadb, start_mysql
from sources.mysql.releases import NEWEST, OLDEST, release_name, supported
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.mysql_sessions import source_of, with_user
from tests.support.old_servers import OLD_SERVERS
from tests.support.servers import AnyServer, connect_mysql, obtain, obtain_old
from tests.support.servers_page import PAGE, SERVERS, measure, name_of, table, title


def check_page(server: AnyServer, suite: str) -> None:
    """The tested version is that of the day on which the page was made."""
    features = measure(server, suite)
    assert table()[title(name_of(server, features))][1:] == list(features)[1:]


def test_the_page_lists_the_servers_of_the_tests() -> None:
    assert set(table()) == {title(name) for name in (*OLD_SERVERS, *SERVERS)}
    page = PAGE.read_text(encoding="utf-8")
    assert all(release_name(mariadb, OLDEST[mariadb]) in page for mariadb in (False, True))
    newest = {tuple(map(int, name.split("-")[1].split("."))) for name in SERVERS}
    assert set(NEWEST.values()) <= newest


def test_the_page_says_what_a_server_can_do(mysql_family: AnyServer) -> None:
    if not isinstance(mysql_family, Server):
        pytest.skip("the page is about the private servers")
    check_page(mysql_family, "default")


@pytest.mark.slow
def test_the_page_says_what_an_old_server_can_do(old_server: Server) -> None:
    check_page(old_server, "slow")


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


def test_a_release_newer_than_the_tests_is_named() -> None:
    """``run`` logs what ``check`` finds."""
    with obtain(lambda: start_mariadb(options=["--version=13.0.1-MariaDB"])) as server:
        source = MySQLSource(MySQLSettings(url=server.url))
        (finding,) = (each for each in source.check() if each.subject == "server")
        source.close()
    assert finding.level == "warning"
    assert "MariaDB 13.0.1 is newer" in finding.message
    assert supported() in finding.message
    assert finding.action


def certificate(folder: Path) -> list[str]:
    """Make a certificate that signs itself. Returns the options with which a server uses it."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start.replace(year=2040))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            encoding,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    for path in (folder, *folder.iterdir(), *list(folder.parents)[:2]):
        path.chmod(0o755)
    names = {"ca": "cert", "cert": "cert", "key": "key"}
    return [f"--ssl-{option}={folder}/{file}.pem" for option, file in names.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [partial(start_mysql, "5.6"), partial(start_mariadb, "10.2")], ids=["mysql", "mariadb"]
)
def test_a_server_with_old_tls_alone_is_named(start: Callable[..., Server], tmp_path: Path) -> None:
    options = certificate(tmp_path)
    with obtain_old(lambda: start(options=options)) as server:
        with pytest.raises(SourceError) as caught:
            connect(with_user(server, "root"))
        connect(with_user(server, "root", tls="disable")).close()
    assert not caught.value.retryable
    assert 'tls = "disable"' in caught.value.hint


@pytest.mark.slow
def test_servers_without_a_uuid_are_told_apart() -> None:
    """GIVEN two servers of MySQL 5.5 with one server id and logs of the same form WHEN a position
    of one is used on the other THEN it is refused. After a restart it is not."""
    start = partial(start_mysql, "5.5")
    with obtain_old(start) as one, obtain_old(start) as other:
        for server in (one, other):
            with connect_mysql(server) as connection:
                query(connection, "CREATE DATABASE same")
        position = source_of(one, "same").position()
        with Following(source_of(other, "same"), position, ()) as following:
            assert "another server" in str(following.failure())
        one.restart()
        with Following(source_of(one, "same"), position, ()) as following:
            following.wait()
