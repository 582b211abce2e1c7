"""
The errors of PostgreSQL connections, for a source and for a target.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

import psycopg
import pytest
from psycopg import errors as pg

from engine.databases.postgres.connect import connect_error, driver_error
from engine.databases.postgres.settings import check_url, guard
from engine.databases.side import SOURCE, TARGET, Side
from engine.errors import (
    ConfigError,
    SinkLost,
    SinkRejected,
    SourceDenied,
    SourceError,
    SourceLost,
    SourceRejected,
)
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink


@pytest.mark.parametrize(("side", "lost"), [(SOURCE, SourceLost), (TARGET, SinkLost)])
def test_a_server_that_does_not_listen_is_lost(side: Side, lost: type[Exception]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(f"postgresql://u:s3cret@127.0.0.1:{port}/db", connect_timeout=5)
    error = connect_error(caught.value, side)
    assert type(error) is lost
    assert side.section in error.hint
    assert "s3cret" not in f"{error} {error.hint}"


def test_a_url_that_libpq_cannot_parse_is_not_shown() -> None:
    with pytest.raises(psycopg.ProgrammingError) as caught:
        psycopg.connect("postgresql://u:s3cret@host/db?nonsense")
    error = connect_error(caught.value, SOURCE)
    assert type(error) is SourceError
    assert str(error) == "the source's URL cannot be read"
    assert "s3cret" not in error.hint


@pytest.mark.parametrize(
    "message",
    [
        "password authentication failed for user u",
        "FATAL: no pg_hba.conf entry for host 10.0.0.1",
        "FATAL: pg_hba.conf rejects connection for host 10.0.0.1",
    ],
)
def test_a_rejected_login_is_told_from_a_lost_connection(message: str) -> None:
    assert type(connect_error(pg.OperationalError(message), TARGET)) is SinkRejected


def test_an_unknown_host_is_told_from_a_name_server_that_is_away() -> None:
    def failed(code: int) -> psycopg.Error:
        text = f"failed to resolve host 'db': {socket.gaierror(code, 'resolver')}"
        return pg.OperationalError(text)

    assert type(connect_error(failed(socket.EAI_NONAME), SOURCE)) is SourceRejected
    assert type(connect_error(failed(socket.EAI_AGAIN), SOURCE)) is SourceLost


@pytest.mark.parametrize(
    ("error", "broken", "expected"),
    [
        (pg.AdminShutdown("x"), True, SourceLost),
        (pg.UndefinedTable("x"), True, SourceLost),
        (pg.LockNotAvailable("x"), False, SourceLost),
        (pg.DiskFull("x"), False, SourceLost),
        (pg.ReadOnlySqlTransaction("x"), False, SourceLost),
        (pg.StatementTooComplex("x"), False, SourceError),
        (pg.InsufficientPrivilege("x"), False, SourceDenied),
        (pg.UniqueViolation("x"), False, SourceError),
    ],
)
def test_only_errors_that_may_pass_are_retried(
    error: psycopg.Error, broken: bool, expected: type[SourceError]
) -> None:
    translated = driver_error(error, SOURCE, broken=broken, table="shop.item")
    assert type(translated) is expected
    assert translated.table == "shop.item"
    assert translated.hint
    assert type(error).__name__ in translated.message


def test_a_url_with_an_unescaped_password_is_refused() -> None:
    check_url("postgresql://u:p%2Fw@host/db", SOURCE)
    with pytest.raises(ConfigError, match="the source's URL cannot be read") as caught:
        check_url("postgresql://u:s3cr/et@host/db", SOURCE)
    assert "s3cr" not in f"{caught.value} {caught.value.hint}"


class Greedy:
    """A server without TLS that asks for the password as clear text."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.received = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            client.settimeout(10)
            with client:
                client.recv(4096)  # SSLRequest, or the request for GSSAPI
                client.sendall(b"N")
                while (data := client.recv(4096)).endswith(b"\x04\xd2\x16/"):  # SSLRequest again
                    client.sendall(b"N")
                client.sendall(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
                self.received += data + client.recv(4096)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(10)


@pytest.mark.parametrize(("host", "sent"), [("0.0.0.0", False), ("127.0.0.1", True)])
def test_a_password_is_not_sent_as_clear_text(host: str, sent: bool) -> None:
    """GIVEN a server without TLS that asks for the password itself WHEN it is not on this machine
    THEN the login is refused. 0.0.0.0 leads here, and does not look like it."""
    server = Greedy()
    url = f"postgresql://u:s3cret@{host}:{server.port}/db?gssencmode=disable"
    sink = PostgresSink(PostgresSettings(url, timeout_seconds=5.0), "p")
    with pytest.raises((SinkLost, SinkRejected)) as refused:
        asyncio.run(sink.state())
    server.close()
    assert (b"s3cret" in server.received) is sent
    assert "s3cret" not in f"{refused.value} {refused.value.hint}"
    if not sent:
        assert type(refused.value) is SinkRejected
        assert "sslmode" in refused.value.hint


def test_a_guarded_url_keeps_what_it_says() -> None:
    assert guard("postgresql://u@db.example/d") == {"require_auth": "!password"}
    for url in (
        "postgresql://u@localhost/d",
        "postgresql:///d?host=/run/postgresql",
        "postgresql://u@db.example/d?sslmode=verify-full",
        "postgresql://u@db.example/d?require_auth=password",
    ):
        assert guard(url) == {}
