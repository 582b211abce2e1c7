"""The keys of rows to repair, which are values of rows, in the target."""

from __future__ import annotations

import psycopg
import pytest

from engine.errors import ApplyError
from engine.recovery import RepairKeys
from engine.schema import TableId
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.support.targets import Target

FAILING_DELETE = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
CREATE TRIGGER fail BEFORE DELETE ON tailrace.repair_key FOR EACH ROW EXECUTE FUNCTION fail();
ALTER TABLE tailrace.repair_key ENABLE ALWAYS TRIGGER fail"""

ACTING = """
CREATE SCHEMA acting;
CREATE TABLE acting.plain (id int PRIMARY KEY);
CREATE TABLE acting.referred (id int PRIMARY KEY);
CREATE TABLE acting.referring (id int REFERENCES acting.referred ON DELETE CASCADE);
CREATE TABLE acting.inserting (id int);
CREATE TABLE acting.deleting (id int);
CREATE FUNCTION acting.act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER act BEFORE INSERT ON acting.inserting EXECUTE FUNCTION acting.act();
CREATE TRIGGER act AFTER INSERT OR DELETE ON acting.deleting
  FOR EACH ROW EXECUTE FUNCTION acting.act()"""


def test_a_cancelled_repair_leaves_no_keys(shared: Target) -> None:
    """GIVEN a cancellation that cannot remove the keys THEN the command still waits."""
    keys = {TableId("shop", "t"): RepairKeys((("secret",),))}

    async def cancel(id: int) -> bool:
        async with shared.sink.command_client() as client:
            return await client.cancel(id, "cancelled")

    with psycopg.connect(shared.url, autocommit=True) as there:

        def stored() -> list[tuple[int, bool]]:
            return there.execute(
                "SELECT (SELECT count(*) FROM tailrace.repair_key), done_at IS NULL"
                " FROM tailrace.command"
            ).fetchall()

        id = shared.run(shared.sink.submit_repair("{}", "ann", keys))
        there.execute(FAILING_DELETE)
        with pytest.raises(ApplyError):
            shared.run(cancel(id))
        assert stored() == [(1, True)]
        there.execute("DROP FUNCTION fail CASCADE")
        assert shared.run(cancel(id))
        assert not shared.run(cancel(id))
        assert stored() == [(0, False)]


def test_deletes_act_on_nothing_else(shared: Target) -> None:
    """GIVEN a role that cannot switch triggers and foreign keys off THEN deletes from a table that
    has a trigger for them, or to which a foreign key refers, are not alone."""
    names = ("plain", "referring", "referred", "inserting", "deleting")

    async def alone(sink: PostgresSink) -> list[str]:
        await sink._session.connect()
        try:
            return [it for it in names if await sink.deletes_alone(TableId("acting", it))]
        finally:
            await sink.close()

    with psycopg.connect(shared.url, autocommit=True) as there:
        there.execute(ACTING)
        assert shared.run(alone(sink_of(shared.url))) == list(names)
        there.execute(
            "DROP ROLE IF EXISTS tailrace_acting; CREATE ROLE tailrace_acting LOGIN PASSWORD 'x';"
            "GRANT USAGE ON SCHEMA acting TO tailrace_acting"
        )
        try:
            info = there.info
            plain = f"postgresql://tailrace_acting:x@{info.host}:{info.port}/{info.dbname}"
            found = shared.run(alone(sink_of(plain)))
        finally:
            there.execute("DROP OWNED BY tailrace_acting; DROP ROLE tailrace_acting")
    assert found == ["plain", "referring", "inserting"]


def sink_of(url: str) -> PostgresSink:
    return PostgresSink(PostgresSettings(url), "acting")
