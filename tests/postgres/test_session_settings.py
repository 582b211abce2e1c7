"""
The settings of our own sessions: what is written and read does not depend on the defaults of the
role or of the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from uuid import uuid4

import psycopg

from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.schema import Column, Index, Table, TableId, Type
from sinks.postgres.settings import PostgresSettings
from tests.conftest import AnyServer
from tests.support.histories import KEYLESS
from tests.support.targets import Target, delete, insert, opened, read, update

#: Values that change what a statement means or returns, or whether it succeeds.
ODD: Mapping[str, str] = {
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "client_min_messages": "debug1",
    "datestyle": "SQL, DMY",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "escape_string_warning": "off",
    "exit_on_error": "on",
    "extra_float_digits": "-15",
    "idle_in_transaction_session_timeout": "1s",
    "idle_session_timeout": "1s",
    "intervalstyle": "sql_standard",
    "lock_timeout": "1ms",
    "quote_all_identifiers": "on",
    "search_path": "shadow, pg_catalog",
    "standard_conforming_strings": "off",
    "statement_timeout": "1s",
    "synchronous_commit": "off",
    "timezone": "Asia/Kolkata",
    "transaction_timeout": "1s",
    "transform_null_equals": "on",
    "xmloption": "document",
}
#: Of these, the ones that change nothing that Tailrace writes or reads.
LEFT = ("backslash_quote", "escape_string_warning", "synchronous_commit", "xmloption")
#: What an unqualified name would mean with the odd ``search_path``.
SHADOW = """
CREATE SCHEMA shadow;
CREATE FUNCTION shadow.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT ''shadow''::text';
CREATE FUNCTION shadow.count() RETURNS bigint LANGUAGE sql AS 'SELECT 99::bigint';
CREATE FUNCTION shadow.differ(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR shadow.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = shadow.differ);
CREATE DOMAIN shadow.varchar AS text CHECK (false);
GRANT USAGE ON SCHEMA shadow TO PUBLIC;
"""


def _column(name: str, kind: str, **more: int) -> Column:
    return Column(name, Type(kind, **more), kind)  # type: ignore[arg-type]


TYPES = Table(
    TableId("shop", "types"),
    (
        Column("id", Type("int32"), "int", nullable=False),
        _column("d", "date"),
        _column("t", "datetime", scale=3),
        _column("z", "timestamp", scale=6),
        _column("i", "interval", scale=2),
        _column("f", "float64"),
        _column("g", "float32"),
        _column("b", "binary"),
        _column("j", "json"),
        _column("v", "text", length=40),
        _column("n", "decimal", precision=20, scale=5),
        _column("x", "bit", length=9),
    ),
    key=(0,),
    indexes=(Index("v", (9,), unique=True),),
)
ROW = (
    *(7, "2024-03-04", "2024-03-04 05:06:07.125", "2024-03-31 01:30:00.000001", "-830:00:01.25"),
    *(0.1 + 0.2, 0.1, b"\\x00\\'", '{"a": "\\\\"}', "back\\slash 'quote' é€\x7f", "-1.50000", 257),
)


@contextmanager
def role_with(server: AnyServer, url: str, values: Mapping[str, str]) -> Iterator[str]:
    """The URL of the database for a new role with these defaults."""
    role = f"t_{uuid4().hex[:12]}"
    database = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        known = {name.lower() for (name,) in connection.execute("SELECT name FROM pg_settings")}
        connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'x'".encode())
        connection.execute(SHADOW)
        for name, value in values.items():
            if name in known:
                connection.execute(f"ALTER ROLE {role} SET {name} = {value_of(value)}".encode())
        try:
            yield f"postgresql://{role}:x@{server.host}:{server.port}/{database}"
        finally:
            connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())


def value_of(text: str) -> str:
    """The value of a setting as SQL; a list is one string for each of its items."""
    return ", ".join(f"'{item.strip()}'" for item in text.split(","))


def written_and_read(url: str) -> dict[str, object]:
    """The effect of each kind of change, and all that ``tailrace verify`` reads of it."""
    with opened(url) as target:
        target.create(TYPES, KEYLESS)
        changed = (8, *ROW[1:9], None, *ROW[10:])
        target.do(insert(TYPES, ROW, changed), insert(KEYLESS, (1, "a"), (None, None)))
        target.do(update(TYPES, (changed, (8, None, *changed[2:]))), delete(KEYLESS, (None, None)))
        target.do(read(TYPES, (9, *changed[1:])), in_backfill=[TYPES.id])
        stored = target.open()
        seen: dict[str, object] = {"findings": target.run(target.sink.check([TYPES, KEYLESS]))}
        seen["settings"] = target.run(settings_of(target))
    settings = PostgresSettings(url)
    with closing(PostgresRowReader(settings, Naming(""))) as reader:
        for table in stored.tables:
            seen[f"{table.id}: scan"] = [row for rows in reader.scan(table) for row in rows]
            seen[f"{table.id}: count"] = reader.count(table)
        seen["keys"] = reader.chunk(TYPES, ("7",), 9, keys_only=True)
        seen["by keys"] = sorted(reader.by_keys(TYPES, [("8",), ("9",)]))
    return seen


async def settings_of(target: Target) -> list[object]:
    """The settings of the sink's session, without those that are the server's own."""
    query = "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[]) ORDER BY name"
    names = sorted(set(ODD) - {"search_path", *LEFT})
    cursor = await target.sink._session.execute(query, (names,))
    return [*await cursor.fetchall()]


def test_sessions_do_not_depend_on_the_defaults_of_the_role(
    postgres_family: AnyServer, url: str
) -> None:
    expected = written_and_read(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA shop, tailrace CASCADE")
    with role_with(postgres_family, url, ODD) as odd:
        seen = written_and_read(odd)
    assert seen == expected
