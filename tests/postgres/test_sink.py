"""
The PostgreSQL sink as a whole: the checkpoint and the rows, fencing, lost connections, rights and
preflight.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from engine.change import Begin, Commit, Heartbeat, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.errors import Fenced, SinkError, SinkLost, SinkRejected, TailraceError
from engine.sandbox.proxy import Link, Proxy
from engine.schema import Column, Table, TableId, Type
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.conftest import AnyServer
from tests.support.histories import KEYED, KEYLESS, number
from tests.support.targets import Target, delete, insert, opened
from tests.support.waiting import wait_until


@pytest.fixture
def target(url: str) -> Iterator[Target]:
    with opened(url) as target:
        target.create(KEYLESS)
        yield target


def count(target: Target) -> int:
    ((rows,),) = target.query("SELECT count(*) FROM shop.ledger")
    return int(rows)


def end_sessions(target: Target) -> None:
    target.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'tailrace'"
    )


def test_nothing_is_created_before_open(url: str) -> None:
    sink = PostgresSink(PostgresSettings(url), "p")
    assert asyncio.run(sink.state()) is None
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regnamespace('tailrace')").fetchone() == (None,)


def test_rows_and_checkpoint_commit_together(target: Target) -> None:
    target.apply(
        insert(KEYLESS, (1, "x")), Heartbeat("p", 1.0), Begin("t", "p", 1.0), Commit("p", 1.0)
    )
    state = target.run(target.sink.state())
    assert state is not None
    assert state.checkpoint is not None
    assert state.checkpoint.position == "1"
    assert count(target) == 0
    progress = {
        KEYLESS.id: TableProgress("backfilling", "5", 10, 100, "seen"),
        KEYED.id: TableProgress("pending"),
    }
    target.commit(progress)
    assert count(target) == 1
    state = target.open()
    assert state.checkpoint == Checkpoint("test", target.epoch, "2", 1.5, progress)
    assert state.tables == (KEYLESS,)
    del progress[KEYED.id]
    target.commit({KEYLESS.id: TableProgress("live")})
    state = target.run(target.sink.state())
    assert state is not None
    assert state.checkpoint is not None
    assert state.checkpoint.progress == {KEYLESS.id: TableProgress("live")}


def test_after_a_rollback_nothing_is_left_and_the_sink_can_be_used(target: Target) -> None:
    target.apply(insert(KEYLESS, *[(n, "x") for n in range(200)]), SchemaChange("", None, KEYED))
    target.run(target.sink.rollback())
    target.run(target.sink.rollback())
    assert count(target) == 0
    assert target.query("SELECT to_regclass('shop.things')") == [(None,)]
    target.create(KEYED)
    target.do(insert(KEYLESS, (1, "x")))
    assert count(target) == 1


def test_a_newer_engine_fences_an_older_one_in_the_middle_of_its_transaction(
    target: Target, url: str
) -> None:
    target.apply(insert(KEYLESS, *[(n, "old") for n in range(500)]))
    with opened(url) as newer:
        assert newer.epoch == target.epoch + 1
        newer.commits = 10
        newer.do(insert(KEYLESS, (1, "new")))
        with pytest.raises(Fenced, match="newer engine"):
            target.commit()
        assert newer.rows(KEYLESS) == [(1, "new")]
        with pytest.raises(Fenced):
            target.open(target.epoch)
        assert newer.open(newer.epoch).epoch == newer.epoch
        newer.do(insert(KEYLESS, (2, "new")))
    assert len(target.rows(KEYLESS)) == 2


def test_a_newer_engine_waits_for_a_commit_that_has_begun(target: Target, url: str) -> None:
    """The older engine has written its checkpoint and not committed. The newer one must see the
    outcome."""
    target.apply(insert(KEYLESS, (1, "old")))
    checkpoint = Checkpoint("test", target.epoch, "77")
    target.run(target.save(checkpoint))
    newer = PostgresSink(PostgresSettings(url), "test")

    def waits() -> bool:
        return bool(
            target.query(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
        )

    async def race() -> Any:
        opening = asyncio.create_task(newer.open())
        await asyncio.to_thread(wait_until, waits, 20, "the newer engine to wait")
        assert not opening.done()
        await target.sink._session.commit()
        state = await asyncio.wait_for(opening, 20)
        await newer.close()
        return state

    state = target.run(race())
    assert state.checkpoint.position == "77"
    assert state.epoch == target.epoch + 1
    with pytest.raises(Fenced):
        target.commit()


def test_a_lock_that_is_never_released_is_reported(url: str, target: Target) -> None:
    target.run(target.save(Checkpoint("test", target.epoch, "9")))
    impatient = PostgresSink(PostgresSettings(url, timeout_seconds=0.2), "test")
    with pytest.raises(SinkLost, match="cannot be taken over yet") as raised:
        asyncio.run(impatient.open())
    assert "pg_terminate_backend" in raised.value.hint


def test_a_connection_that_breaks_in_apply_leaves_nothing(target: Target) -> None:
    target.apply(insert(KEYLESS, (1, "x")))
    end_sessions(target)
    with pytest.raises(SinkLost):
        target.apply(insert(KEYLESS, *[(n, "x") for n in range(500)]))
    target.run(target.sink.rollback())
    state = target.open(target.epoch)
    assert state.checkpoint is not None
    assert state.checkpoint.position == "1"
    assert count(target) == 0
    target.do(insert(KEYLESS, *[(n, "x") for n in range(500)]))
    assert count(target) == 500


class CommitCutter(Proxy):
    """A proxy that breaks the connection when the client sends its next COMMIT, once ``armed``. If
    it ``delivers``, the server gets the COMMIT and its answer is dropped; otherwise the server gets
    nothing."""

    def __init__(self, host: str, port: int, *, delivers: bool) -> None:
        self.armed = False
        self._delivers = delivers
        super().__init__(host, port)

    def _forward(self, link: Link, here: socket.socket, there: socket.socket) -> None:
        to_server = there is link.server
        with contextlib.suppress(OSError):
            while data := here.recv(1 << 16):
                if self.armed and to_server and b"COMMIT" in data:
                    self._break(here, there, data)
                    break
                there.sendall(data)
        for each in (here, there):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _break(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        self.armed = False
        client.shutdown(socket.SHUT_RDWR)
        if self._delivers:
            server.sendall(data)
            # The server executes the COMMIT first, and then sees the end of the input. Closing the
            # socket before that would reset the connection, and the COMMIT could be lost.
            server.shutdown(socket.SHUT_WR)
            while server.recv(1 << 16):
                pass


@pytest.mark.parametrize("delivered", [True, False], ids=["arrived", "lost"])
def test_the_outcome_of_a_commit_without_an_answer_is_read_back(
    postgres_family: AnyServer, url: str, delivered: bool
) -> None:
    proxy = CommitCutter(postgres_family.host, postgres_family.port, delivers=delivered)
    through = url.replace(f":{postgres_family.port}/", f":{proxy.port}/") + "?sslmode=disable"
    with proxy, opened(through) as target:
        target.create(KEYLESS)
        target.url = url
        for attempt in range(3):
            target.apply(insert(KEYLESS, (attempt, "x")))
            proxy.armed = True
            with pytest.raises(SinkLost):
                target.commit()
            target.run(target.sink.rollback())
            state = target.open(target.epoch)
            assert state.checkpoint is not None
            done = state.checkpoint.position == str(target.commits)
            assert done == delivered
            assert count(target) == (attempt + 1 if delivered else 0)


def test_a_server_that_does_not_answer_is_lost_at_the_deadline(url: str) -> None:
    with opened(url, timeout_seconds=0.3) as target:
        with pytest.raises(SinkLost, match=r"no answer within 0\.3 s"):
            target.run(target.sink._session.execute("SELECT pg_sleep(30)"))
        target.run(target.sink.rollback())
        target.open(target.epoch)
        target.commit()


def test_no_server_is_a_lost_sink_and_a_wrong_database_is_an_error(
    postgres: AnyServer,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url, kind in (
        (f"postgresql://postgres@127.0.0.1:{port}/postgres", SinkLost),
        (f"{postgres.url.rpartition('/')[0]}/nowhere", SinkRejected),
    ):
        with pytest.raises(kind) as raised:
            asyncio.run(PostgresSink(PostgresSettings(url), "p").open())
        assert type(raised.value) is kind
        assert raised.value.hint


def test_a_role_that_may_not_log_in_is_an_error(postgres: AnyServer, url: str) -> None:
    role = f"role_{url.rpartition('/')[2]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} NOLOGIN")
        try:
            small = url.replace("postgres@", f"{role}@").replace("postgres:postgres@", f"{role}@")
            with pytest.raises(SinkError) as raised:
                asyncio.run(PostgresSink(PostgresSettings(small), "p").open())
            assert type(raised.value) is SinkRejected
        finally:
            connection.execute(f"DROP ROLE {role}")


def test_a_role_that_is_read_only_by_default(target: Target, url: str) -> None:
    database = url.rpartition("/")[2]
    target.query(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    target.open()
    target.create(KEYED)


def test_a_role_with_few_rights(postgres_family: AnyServer, url: str) -> None:
    database = url.rpartition("/")[2]
    role = f"role_{database}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    small = url.replace("postgres@", f"{role}@").replace("postgres:postgres@", f"{role}@")
    sink = PostgresSink(PostgresSettings(small), "p")
    try:
        findings = asyncio.run(sink.check([KEYED]))
        errors = [finding for finding in findings if finding.level == "error"]
        assert {finding.action.split()[0] for finding in errors} == {"GRANT", "CREATE"}
        assert any("session_replication_role" in finding.message for finding in findings)
        with pytest.raises(SinkError, match="temporary tables cannot be created"):
            asyncio.run(sink.open())
        with psycopg.connect(url, autocommit=True) as connection:
            for finding in errors:
                connection.execute(finding.action)  # type: ignore[call-overload]
        assert all(finding.level != "error" for finding in asyncio.run(sink.check([KEYED])))
        with opened(small) as target:
            target.create(KEYED)
            target.do(insert(KEYED, *[(n, n, "", "") for n in range(200)]))
            target.do(insert(KEYED, *[(n, n, "", "") for n in range(200)]))
            assert len(target.rows(KEYED)) == 200
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


def test_the_preflight_names_what_the_target_cannot_store(target: Target) -> None:
    target.query("CREATE TABLE shop.things (x int)")
    long = Table(TableId("shop", "ß" * 32), (number("id"),), key=(0,))
    hidden = Table(TableId("shop", "sys"), (number("xmin"),), key=(0,))
    reserved = Table(TableId("tailrace", "x"), (number("id"),), key=(0,))
    dated = Table(
        TableId("shop", "dated"), (Column("d", Type("date"), "date", nullable=False),), key=(0,)
    )
    findings = target.run(target.sink.check([KEYED, KEYLESS, long, hidden, reserved, dated]))
    bad = {(its.level, its.subject) for its in findings if its.level != "ok"}
    assert bad == {
        ("error", "shop.things"),
        ("warning", "shop.ledger"),
        ("warning", str(long.id)),
        ("warning", "shop.sys"),
        ("error", "tailrace"),
        ("warning", "shop.dated"),
    }
    assert all(its.action for its in findings if its.level != "ok")
    assert isinstance(target.refuses(SchemaChange("", None, reserved)), SinkError)


def test_triggers_and_foreign_keys_of_the_target_are_off(target: Target) -> None:
    target.create(KEYED)
    target.query("ALTER TABLE shop.things ADD CHECK (id < 1000)")
    target.query("CREATE TABLE shop.child (id int REFERENCES shop.things)")
    target.query("INSERT INTO shop.things VALUES (1); INSERT INTO shop.child VALUES (1)")
    target.do(delete(KEYED, (1, None, "", "")))
    assert target.query("SELECT count(*) FROM shop.child") == [(1,)]


def test_two_pipelines_share_a_target_but_not_a_table(target: Target, url: str) -> None:
    second = PostgresSink(PostgresSettings(url), "second")

    async def run() -> None:
        state = await second.open()
        assert state.checkpoint is None
        assert state.tables == ()
        with pytest.raises(TailraceError, match="belongs to pipeline test"):
            await second.apply([SchemaChange("", None, KEYLESS)])
        await second.rollback()
        await second.close()

    asyncio.run(run())
    target.do(insert(KEYLESS, (1, "x")))


def test_a_newer_layout_is_not_changed(target: Target) -> None:
    target.query("UPDATE tailrace.layout SET version = 99")
    with pytest.raises(SinkError, match="layout 99"):
        target.open()
