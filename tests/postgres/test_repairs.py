"""The keys of rows to repair, which are values of rows, in the target."""

from __future__ import annotations

import psycopg
import pytest

from engine.errors import ApplyError
from engine.recovery import RepairKeys
from engine.schema import Column, Table, TableId, Type
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
  FOR EACH ROW EXECUTE FUNCTION acting.act();
CREATE TABLE acting.always (id int);
CREATE TRIGGER act AFTER DELETE ON acting.always EXECUTE FUNCTION acting.act();
ALTER TABLE acting.always ENABLE ALWAYS TRIGGER act;
CREATE TABLE acting.replica (id int);
CREATE TRIGGER act AFTER DELETE ON acting.replica EXECUTE FUNCTION acting.act();
ALTER TABLE acting.replica ENABLE REPLICA TRIGGER act;
CREATE TABLE acting.wide (id int, gone int, note text, "a b" int DEFAULT 5,
  twice int GENERATED ALWAYS AS (id * 2) STORED);
ALTER TABLE acting.wide DROP COLUMN gone"""


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


def test_rows_are_deleted_and_inserted_only_if_nothing_else_is_concerned(shared: Target) -> None:
    """GIVEN a role that cannot switch triggers and foreign keys off THEN a trigger for deletes and
    a foreign key that refers to the table act; else triggers that are enabled for replicas. Columns
    that the target alone has lose their values with any role, but for generated ones."""
    names = ("plain", "referring", "referred", "inserting", "deleting", "always", "replica", "wide")
    column = Column("id", Type("int32"), "int")

    async def concerned(sink: PostgresSink) -> dict[str, str]:
        await sink._session.connect()
        tables = [Table(TableId("acting", it), (column,), (0,)) for it in names]
        try:
            found = {it.id.name: await sink.why_not_anew(it) for it in tables}
        finally:
            await sink.close()
        return {name: reason for name, reason in found.items() if reason}

    lost = (
        "the values of columns that the target alone has would be lost: note, a b"
        " (a backfill keeps them only with --in-place)"
    )
    acts = "a trigger or a foreign key of the target acts on each delete"
    with psycopg.connect(shared.url, autocommit=True) as there:
        there.execute(ACTING)
        found = shared.run(concerned(sink_of(shared.url)))
        assert found == {"always": acts, "replica": acts, "wide": lost}
        there.execute(
            "DROP ROLE IF EXISTS tailrace_acting; CREATE ROLE tailrace_acting LOGIN PASSWORD 'x';"
            "GRANT USAGE ON SCHEMA acting TO tailrace_acting"
        )
        try:
            info = there.info
            plain = f"postgresql://tailrace_acting:x@{info.host}:{info.port}/{info.dbname}"
            found = shared.run(concerned(sink_of(plain)))
        finally:
            there.execute("DROP OWNED BY tailrace_acting; DROP ROLE tailrace_acting")
    assert found == {**dict.fromkeys(("referred", "deleting", "always"), acts), "wide": lost}


def sink_of(url: str) -> PostgresSink:
    return PostgresSink(PostgresSettings(url), "acting")
