"""
The rights that ``tailrace check --grants`` prints for a target: they are enough for ``check``,
which names each one that is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from engine.contract import Finding
from engine.errors import SinkError, SinkLost
from engine.rights import Grants
from engine.schema import Table
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.postgres.tables import table
from tests.support.servers import AnyServer

ROLE = "Granted role"
KEYED = table()
#: An event trigger that refuses nothing: to find that out, a table is created.
EVENT_TRIGGER = (
    "CREATE FUNCTION public.nothing() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$",
    "CREATE EVENT TRIGGER harmless ON ddl_command_start EXECUTE FUNCTION public.nothing()",
)


@pytest.fixture
def guarded(url: str) -> Iterator[psycopg.Connection]:
    """A connection to a database that gives the public no rights."""
    database = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        yield connection
        connection.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC")
        drop(connection)


def sink_of(url: str, schema: str = "") -> PostgresSink:
    """A sink for the role that is granted rights."""
    scheme, _, rest = url.partition("://")
    url = f"{scheme}://Granted%20role@{rest.rpartition('@')[2]}"
    return PostgresSink(PostgresSettings(url, schema=schema), "p")


def grants_of(url: str, *tables: Table, schema: str = "") -> Grants:
    return asyncio.run(sink_of(url, schema).grants(tables))


def drop(connection: psycopg.Connection) -> None:
    """Drop the role, and what it has."""
    exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone()
    if exists:
        connection.execute(f'DROP OWNED BY "{ROLE}" CASCADE')
        connection.execute(f'DROP ROLE "{ROLE}"')


def recreate(connection: psycopg.Connection, create: str, statements: list[str]) -> None:
    """Make the role with these rights and no others."""
    drop(connection)
    for statement in (create.replace("…", "x"), *statements):
        connection.execute(statement)  # type: ignore[call-overload]


def about_rights(url: str) -> list[Finding]:
    """What ``check`` says of rights; a connection that is refused as a finding, too."""
    try:
        findings = asyncio.run(sink_of(url).check([KEYED]))
    except SinkError as error:
        return [Finding("error", "target", error.message, error.hint, "CK002")]
    return [it for it in findings if "GRANT" in it.action or "CREATE" in it.action]


def test_the_printed_grants_are_enough_and_each_is_needed(
    postgres_family: AnyServer, url: str, guarded: psycopg.Connection
) -> None:
    asked = grants_of(url, KEYED)  # the role does not exist yet
    statements = [grant.statement for grant in asked.grants]
    assert len(statements) == 5
    recreate(guarded, asked.create, statements)
    assert about_rights(url) == []
    for statement in EVENT_TRIGGER:
        guarded.execute(statement)  # type: ignore[call-overload]
    assert "PG024" not in {it.code for it in asyncio.run(sink_of(url).check([KEYED]))}
    guarded.execute("DROP EVENT TRIGGER harmless")
    for position, left_out in enumerate(statements):
        recreate(guarded, asked.create, statements[:position] + statements[position + 1 :])
        found = about_rights(url)
        assert len(found) == 1, (left_out, found)
        words = " ".join(left_out.split()[:3])  # GRANT CONNECT ON, CREATE SCHEMA "shop"
        assert words in found[0].action, (left_out, found)
        assert (found[0].level == "warning") == ("PARAMETER" in left_out)


def test_a_schema_that_exists_is_granted(url: str, guarded: psycopg.Connection) -> None:
    guarded.execute(f"CREATE SCHEMA {KEYED.id.schema}")
    asked = grants_of(url, KEYED)
    recreate(guarded, asked.create, [it.statement for it in asked.grants[:2]])
    known = grants_of(url, KEYED)  # now the role may connect, and sees the schema
    assert known.server.startswith("PostgreSQL 1")
    statements = [grant.statement for grant in known.grants]
    assert f'GRANT CREATE, USAGE ON SCHEMA "{KEYED.id.schema}" TO "{ROLE}";' in statements
    recreate(guarded, known.create, statements)
    assert about_rights(url) == []
    guarded.execute(f'REVOKE USAGE ON SCHEMA "{KEYED.id.schema}" FROM "{ROLE}"')
    assert [it.code for it in about_rights(url)] == ["PG006"]


def test_without_tables_the_role_may_create_schemas(url: str) -> None:
    def statements(*tables: Table, schema: str = "") -> str:
        return " ".join(it.statement for it in grants_of(url, *tables, schema=schema).grants)

    assert "GRANT CREATE ON DATABASE" in statements()
    assert "GRANT CREATE ON DATABASE" not in statements(KEYED)
    assert 'CREATE SCHEMA "crm"' in statements(schema="crm")


def test_a_server_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(SinkLost):
        grants_of("postgresql://root@127.0.0.1:1/shop")
