"""
The database servers of the tests: private servers, or your own.

A test whose server is not available is skipped on your machine and fails where `CI=true`, so a
green build has run against every server.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn, TypeAlias
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import pytest
from pymysql.constants import CLIENT

from engine.sandbox import SandboxUnavailable, Server

STATEMENT_TIMEOUT_SECONDS = 20


class ExternalServer:
    """Your own server, named by a URL. It has the attributes of `Server`, but cannot be stopped."""

    def __init__(self, kind: str, url: str) -> None:
        parts = urlsplit(url)
        self.kind = kind
        self.url = url
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or (5432 if kind == "postgres" else 3306)
        self.user = unquote(parts.username or "")
        self.password = unquote(parts.password or "")
        self.version = postgres_version(url) if kind == "postgres" else mysql_version(self)

    def start(self) -> NoReturn:
        pytest.skip("needs a private server, because it stops and starts the server")

    kill = stop = restart = shutdown = start


AnyServer: TypeAlias = Server | ExternalServer


def obtain(start: Callable[[], Server]) -> Server:
    """Start a private server. Skips or fails the test if it is not available."""
    try:
        return start()
    except SandboxUnavailable as error:
        do_without(error)


def obtain_old(start: Callable[[], Server]) -> Server:
    """Start a server of an earlier release. Skips the test if it cannot be fetched, everywhere."""
    try:
        return start()
    except SandboxUnavailable as error:
        pytest.skip(f"{error} {error.hint}".strip())


def do_without(error: SandboxUnavailable) -> NoReturn:
    """Skip the test because a server is not available, or fail it where CI=true."""
    reason = f"{error} {error.hint}".strip()
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def connect_mysql(server: AnyServer, database: str | None = None) -> pymysql.Connection:
    """Connect as the user with all privileges, with autocommit on."""
    return pymysql.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=database,
        autocommit=True,
        charset="utf8mb4",
        connect_timeout=STATEMENT_TIMEOUT_SECONDS,
        client_flag=CLIENT.MULTI_STATEMENTS,  # as the engine's sessions
    )


def mysql_version(server: AnyServer) -> str:
    """The version number, such as 9.7.4."""
    with connect_mysql(server) as connection:
        text: str = connection.get_server_info()
    return text.removeprefix("5.5.5-").split("-")[0]


def postgres_version(url: str) -> str:
    """The version number, such as 15.18."""
    with psycopg.connect(url) as connection:
        text = connection.info.parameter_status("server_version") or ""
    return text.split()[0]


def drop_mysql_database(server: AnyServer, name: str) -> None:
    """Drop a database, after ending the connections that use it."""
    with connect_mysql(server) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET lock_wait_timeout = {STATEMENT_TIMEOUT_SECONDS}")
        cursor.execute(
            "SELECT id FROM information_schema.processlist WHERE db = %s AND id <> %s",
            (name, connection.thread_id()),
        )
        for (thread,) in cursor.fetchall():
            _kill_connection(cursor, thread)
        cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")


def _kill_connection(cursor: pymysql.cursors.Cursor, thread: int) -> None:
    no_such_thread = 1094
    try:
        cursor.execute(f"KILL {thread}")
    except pymysql.MySQLError as error:
        if error.args[0] != no_such_thread:
            raise
