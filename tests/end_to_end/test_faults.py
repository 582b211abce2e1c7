"""
Faults that an operator meets, caused for real. Each is named by the status, the log and
`tailrace check`, its alert fires, and what they say to type ends it: both sides are equal then.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from pymysql.constants import COMMAND

from engine.databases.mysql.connect import query
from engine.databases.mysql.pymysql_adapter import force_close, read_ok, send_command, take_socket
from engine.sandbox import Server, start_postgres
from sources.mysql.position import parse_position
from tests.support.commands import tailrace
from tests.support.fake_time import clock_ahead
from tests.support.faults import Mirror
from tests.support.mysql_sessions import source_of
from tests.support.servers import AnyServer, connect_mysql, obtain
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

USER = "tailrace_faults"


# -- rights, passwords -----------------------------------------------------------------------------


@contextmanager
def limited(server: AnyServer, target: str) -> Iterator[tuple[str, str]]:
    """The URLs of both sides for users with the rights that a pipeline needs, and no others."""
    with connect_mysql(server) as connection, closing(psycopg.connect(target)) as there:
        there.autocommit = True
        database = target.rpartition("/")[2]
        name = f"{USER}@'%'"
        query(connection, f"CREATE USER {name} IDENTIFIED BY 'right'")
        there.execute(f"CREATE ROLE {USER} LOGIN".encode())
        try:
            query(connection, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {name}")
            query(connection, f"GRANT SELECT, LOCK TABLES, TRIGGER ON *.* TO {name}")
            there.execute(f"GRANT CREATE, TEMPORARY ON DATABASE {database} TO {USER}".encode())
            yield (
                server.url.replace(f"{server.user}@", f"{USER}:right@"),
                target.replace("postgres@", f"{USER}@"),
            )
        finally:
            query(connection, f"DROP USER {name}")
            there.execute(f"DROP OWNED BY {USER} CASCADE".encode())
            there.execute(f"DROP ROLE {USER}".encode())


def test_rights_that_are_revoked(
    mysql_family: AnyServer, target_database: str, make_mirror: Callable[..., Mirror]
) -> None:
    with (
        limited(mysql_family, target_database) as (source, target),
        psycopg.connect(target_database, autocommit=True) as there,
    ):
        mirror = make_mirror(mysql_family, target, source)
        mirror.insert()
        table, name = f"{mirror.writer.database}.t", f"{USER}@'%'"
        # Before the pipeline has worked, the engine ends.
        mirror.writer(f"REVOKE REPLICATION SLAVE ON *.* FROM {name}")
        said = tailrace(1, "run", mirror.config)
        assert f"`tailrace check {mirror.config}`" in said
        mirror.writer(mirror.remedy("MY021"))

        with mirror.running() as prometheus:
            there.execute(f"REVOKE INSERT, UPDATE ON {table} FROM {USER}".encode())
            mirror.insert()
            error = mirror.wait_error("SinkDenied", "permission denied")
            assert (error["table"], bool(error["position"])) == (table, True)
            prometheus.wait_until_fires("TailraceTargetAway")
            there.execute(mirror.remedy("PG025").encode())
            mirror.wait_level()

            there.execute(f"REVOKE UPDATE ON tailrace.checkpoint FROM {USER}".encode())
            mirror.insert()
            mirror.wait_error("SinkDenied", "permission denied for table checkpoint")
            there.execute(mirror.remedy("PG025").encode())
            mirror.wait_level()

            mirror.writer(f"REVOKE REPLICATION SLAVE ON *.* FROM {name}")
            mirror.kill(mirror.sessions(f"user = '{USER}'"))
            mirror.insert()
            mirror.wait_error("SourceDenied", "denies")
            prometheus.wait_until_fires("TailraceSourceAway")
            mirror.writer(mirror.remedy("MY021"))
            mirror.wait_level()

            mirror.writer(f"ALTER USER {name} IDENTIFIED BY 'other'")
            mirror.kill(mirror.sessions(f"user = '{USER}'"))
            mirror.insert()
            mirror.wait_error("SourceRejected", "denies the login")
            mirror.config.write_text(mirror.config.read_text().replace(":right@", ":other@"))
            tailrace(0, "reload", mirror.config)
            mirror.wait_level()
            assert mirror.engine.terminate() == 0


# -- another replica with the same server_id -------------------------------------------------------


@contextmanager
def replica(server: AnyServer, server_id: int) -> Iterator[None]:
    """Another replica, to which the server sends its log."""
    connection = connect_mysql(server)
    query(connection, "SET @master_binlog_checksum = 'CRC32', @mariadb_slave_capability = 4")
    host = b"elsewhere"
    registration = struct.pack("<IB", server_id, len(host)) + host + bytes(12)
    send_command(connection, COMMAND.COM_REGISTER_SLAVE, registration)
    read_ok(connection)
    end = parse_position(source_of(server, "mysql").position())
    dump = struct.pack("<IHI", end.offset, 0, server_id) + end.file.encode()
    send_command(connection, COMMAND.COM_BINLOG_DUMP, dump)
    assert take_socket(connection, timeout_seconds=20.0).recv(1)  # the dump has started
    yield
    with connect_mysql(server) as other:  # the server would not notice that it is gone
        query(other, f"KILL {connection.thread_id()}")
    force_close(connection)


def test_another_replica_with_the_same_server_id(
    mysql_family: AnyServer, target_database: str, make_mirror: Callable[..., Mirror]
) -> None:
    mirror = make_mirror(mysql_family, target_database)
    text = mirror.config.read_text()
    mirror.config.write_text(text.replace("[sink]", "server_id = 4545\n[sink]"))
    with replica(mysql_family, 4545):
        assert "server_id 4545" in tailrace(1, "run", mirror.config)
        assert "to an unused number" in mirror.remedy("MY021")
    wait_until(lambda: not mirror.sessions("command LIKE 'Binlog Dump%'"), what="its end")
    with mirror.running() as prometheus:
        own = mirror.sessions("command LIKE 'Binlog Dump%'")
        with replica(mysql_family, 4545):
            # MariaDB ends the engine's connection. MySQL does that for a replica of the same UUID.
            mirror.kill(own)
            mirror.insert()
            mirror.wait_error("SourceRejected", "server_id 4545")
            prometheus.wait_until_fires("TailraceSourceAway")
            mirror.config.write_text(text.replace("[sink]", "server_id = 0\n[sink]"))
            tailrace(0, "reload", mirror.config)
            mirror.wait_level()
        assert mirror.engine.terminate() == 0


# -- a side that is down ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_side_that_is_down(
    mysql: AnyServer,
    postgres: AnyServer,
    target_database: str,
    make_mirror: Callable[..., Mirror],
    side: str,
) -> None:
    mirror = make_mirror(mysql, target_database)
    server = mysql if side == "source" else postgres
    kind, alert = ("SourceLost", "Source") if side == "source" else ("SinkLost", "Target")
    with mirror.running() as prometheus:
        mirror.insert()
        server.kill()
        try:
            if side == "target":
                mirror.insert()
            mirror.wait_error(kind, "no connection to")
            prometheus.wait_until_fires(f"Tailrace{alert}Away")
            code = "CK001" if side == "source" else "CK002"
            assert "the server runs" in mirror.remedy(code)
            shown = tailrace(1, "status", mirror.config)
            assert "no connection to" in shown
        finally:
            server.start()
        if side == "source":
            mirror.writer.reconnect()
        mirror.insert()
        mirror.wait_level()
        wait_until(lambda: not prometheus.firing() - {"TailraceErrors"}, what="the end of it")
        assert mirror.engine.terminate() == 0


# -- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of 160 MB, in a folder that the servers may enter."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-disk-"))
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "x", folder]).returncode
    ):
        folder.rmdir()
        pytest.skip("needs the right to mount a disk")
    folder.chmod(0o755)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


def fill(disk: Path, rest: int) -> Path:
    """A file that takes all of a disk but ``rest`` bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - rest))
    return ballast


def test_a_full_disk_of_the_tables(
    mysql: AnyServer, disk: Path, make_mirror: Callable[..., Mirror]
) -> None:
    with obtain(lambda: start_postgres(options=("fsync=off",))) as target:
        assert isinstance(target, Server)
        space = disk / "space"
        space.mkdir()
        shutil.chown(space, target.layout.data.owner(), target.layout.data.group())
        with closing(psycopg.connect(target.url)) as there:
            there.autocommit = True
            there.execute(f"CREATE TABLESPACE small LOCATION '{space}'".encode())
            there.execute(b"CREATE DATABASE mirror TABLESPACE small")
        mirror = make_mirror(mysql, f"{target.url.rpartition('/')[0]}/mirror")
        with mirror.running() as prometheus:
            ballast = fill(disk, 200_000)
            for _ in range(8):
                mirror.insert(os.urandom(50_000).hex())
            error = mirror.wait_error("SinkLost", "DiskFull")
            assert "Make room" in error["remedy"]
            prometheus.wait_until_fires("TailraceTargetAway", "TailraceErrors")
            ballast.unlink()
            mirror.wait_level()
            assert mirror.engine.terminate() == 0


def test_a_full_disk_of_the_write_ahead_log(
    mysql: AnyServer, disk: Path, make_mirror: Callable[..., Mirror]
) -> None:
    """PostgreSQL ends itself then, and cannot start again before there is room."""
    data = disk / "data"
    options = ("fsync=off", "max_wal_size=64MB", "restart_after_crash=off")
    with obtain(lambda: start_postgres(options=options, directory=data)) as target:
        assert isinstance(target, Server)
        mirror = make_mirror(mysql, target.url)
        with mirror.running() as prometheus:
            ballast = fill(disk, 200_000)
            for _ in range(60):
                mirror.insert(os.urandom(300_000).hex())
            wait_until(lambda: not target.running, what="the end of PostgreSQL")
            mirror.wait_error("SinkLost", "no connection to PostgreSQL")
            prometheus.wait_until_fires("TailraceTargetAway")
            assert "CK002" in tailrace(1, "check", mirror.config)
            ballast.unlink()
            target.start()
            mirror.wait_level()
            assert mirror.engine.terminate() == 0


# -- a lock on the target, a clock, a shape --------------------------------------------------------


def test_a_table_of_the_target_that_is_locked_for_longer_than_the_timeout(
    mysql: AnyServer, target_database: str, make_mirror: Callable[..., Mirror]
) -> None:
    mirror = make_mirror(mysql, target_database)
    with mirror.config.open("a") as config:
        config.write("timeout_seconds = 3\n")
    table = f"{mirror.writer.database}.t"
    with mirror.running(), closing(psycopg.connect(target_database)) as holder:
        holder.execute(f"LOCK TABLE {table}".encode())
        mirror.insert()
        error = mirror.wait_error("SinkLost", "LockNotAvailable")
        assert error["table"] == table
        with psycopg.connect(target_database, autocommit=True) as there:
            hint = error["remedy"].partition("SELECT")[2].rstrip(".")

            def blocks() -> bool:
                found = there.execute(f"SELECT{hint}".encode()).fetchall()
                return holder.info.backend_pid in [pid for pid, *_ in found]

            wait_until(blocks, what="the session that holds the lock")
            there.execute("SELECT pg_terminate_backend(%s)", [holder.info.backend_pid])
        mirror.wait_level()
        assert mirror.engine.terminate() == 0


def test_a_clock_that_differs(
    mysql: AnyServer, target_database: str, make_mirror: Callable[..., Mirror]
) -> None:
    mirror, clock = make_mirror(mysql, target_database), clock_ahead(600)
    with mirror.running(environment=clock) as prometheus:
        prometheus.wait_for("TailraceClockSkew")
        checked = tailrace(0, "check", mirror.config, environment=clock)
        assert "MY028" in checked
        assert "600.0 seconds behind" in checked
        assert mirror.engine.terminate() == 0
    with mirror.running() as prometheus:
        wait_until(lambda: prometheus.query("tailrace_source_clock_ahead_seconds") == [0])
        prometheus.wait_for()


def test_a_table_that_is_altered_to_what_cannot_be_followed(
    mysql_family: AnyServer, target_database: str, make_mirror: Callable[..., Mirror]
) -> None:
    mirror = make_mirror(mysql_family, target_database)
    mirror.writer("CREATE TABLE u (id INT PRIMARY KEY)")
    table = f"{mirror.writer.database}.t"
    with mirror.running() as prometheus, psycopg.connect(target_database, autocommit=True) as there:
        mirror.writer(
            "ALTER TABLE t ADD e ENUM(x'ff', 'b') CHARACTER SET binary", "INSERT INTO u VALUES (1)"
        )
        mirror.insert()
        prometheus.wait_until_fires("TailraceTableQuarantined")
        others = f"SELECT count(*) FROM {mirror.writer.database}.u"
        wait_until(lambda: there.execute(others.encode()).fetchone() == (1,), what="the others")
        shown = tailrace(3, "tables", mirror.config)
        assert table in shown
        mirror.writer("ALTER TABLE t DROP e")
        tailrace(0, "backfill", mirror.config, table)
        prometheus.wait_for()
        mirror.wait_level()
        assert mirror.engine.terminate() == 0
