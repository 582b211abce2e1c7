"""
Encrypted connections: the TLS settings, certificates, and the stream over TLS.
"""

from __future__ import annotations

import gc
import select
import socket
import ssl
import struct

import pytest
from msgspec import structs

from engine.databases.mysql.connect import connect, prepare
from engine.errors import SourceError
from engine.sandbox import Server
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.mysql_sessions import MIB, FreshDatabase, Writer, cipher, source_of, with_user
from tests.support.servers import AnyServer


@pytest.mark.parametrize("name", ["mysql", "mariadb_11"])
def test_tls_is_used_as_configured(name: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(name)
    if not isinstance(server, Server):
        pytest.skip("needs root without a password")
    assert cipher(with_user(server, "root", tls="prefer"))
    assert cipher(with_user(server, "root", tls="require"))
    assert not cipher(with_user(server, "root", tls="disable"))


def test_a_connection_that_breaks_before_the_tls_handshake_is_closed() -> None:
    """If the server hangs up before the handshake, no open socket is left to the garbage collector,
    whose ResourceWarning would fail the test.
    """
    connection = prepare(MySQLSettings(url="mysql://u:p@127.0.0.1/?tls=prefer"))
    context: ssl.SSLContext = vars(connection)["ctx"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        assert select.select([ours], [], [], 5)[0]  # the reset has arrived
        with pytest.raises(ConnectionResetError):
            context.wrap_socket(ours)
    gc.collect()


def test_the_stream_over_tls(mysql: AnyServer, fresh_mysql_database: FreshDatabase) -> None:
    writer = Writer(mysql, fresh_mysql_database(mysql))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
    source = source_of(mysql, writer.database, tls="require")
    with Following(source, source.position(), source.catalog()) as following:
        writer(
            "INSERT INTO t VALUES (1, 'x')", f"INSERT INTO t VALUES (2, REPEAT('y', {20 * MIB}))"
        )
        following.wait()
    assert following.inserted() == [1, 2]


def test_a_certificate_is_verified(mysql: AnyServer) -> None:
    if not isinstance(mysql, Server):
        pytest.skip("needs the server's own certificate")
    own = str(mysql.layout.data / "ca.pem")
    assert cipher(with_user(mysql, "root", tls="verify-ca", tls_ca=own))
    with pytest.raises(SourceError, match="secure") as caught:
        connect(with_user(mysql, "root", tls="verify-full", tls_ca=own))
    assert not caught.value.retryable
    other = str(mysql.layout.data / "client-cert.pem")
    with pytest.raises(SourceError, match="secure"):
        connect(with_user(mysql, "root", tls="verify-ca", tls_ca=other))


def test_the_check_tells_how_the_connection_is_protected(mysql: AnyServer) -> None:
    """Every address of this machine does not look like it, so it is taken for another one."""
    if not isinstance(mysql, Server):
        pytest.skip("needs the server's own certificate")
    own = str(mysql.layout.data / "ca.pem")
    for settings, codes in (
        ({"tls": "disable"}, {"MY017"}),
        ({"tls": "prefer"}, {"MY018"}),
        ({"tls": "require"}, {"MY018"}),
        ({"tls": "require", "tls_ca": own}, {"MY016", "MY018"}),
        ({"tls": "verify-ca", "tls_ca": own}, set[str]()),
    ):
        with_tls = with_user(mysql, "root", **settings)
        elsewhere = with_tls.url.replace("127.0.0.1", "0.0.0.0")
        source = MySQLSource(structs.replace(with_tls, url=elsewhere))
        found = {it.code for it in source.check()}
        source.close()
        assert found & {"MY016", "MY017", "MY018"} == codes, settings


def test_a_server_without_tls_is_refused_if_tls_is_required(mariadb_10: AnyServer) -> None:
    if not isinstance(mariadb_10, Server):
        pytest.skip("needs a server without TLS")
    assert cipher(with_user(mariadb_10, "root", tls="prefer")) == ""
    with pytest.raises(SourceError, match="SSL"):
        connect(with_user(mariadb_10, "root", tls="require"))
