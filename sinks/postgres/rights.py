"""
The rights that a pipeline needs on its target, for ``tailrace check --grants``.

A schema of the role's own is less than the right to create schemas in the database. It is enough as
long as no other schema is needed.

PostgreSQL manual, "GRANT" and "Privileges".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from psycopg.conninfo import conninfo_to_dict

from engine.databases.postgres.identifiers import Naming, fitted, quote
from engine.errors import SinkError, SinkLost
from engine.rights import Grant, Grants
from engine.schema import Table
from sinks.postgres.session import Session
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.state import SCHEMA

__all__ = ["PARAMETER_VERSION", "read_grants", "target_schemas"]

#: The release that introduced rights to set parameters.
PARAMETER_VERSION = 15


def target_schemas(naming: Naming, tables: Sequence[Table]) -> list[str]:
    """The schemas on the target: that of the state, and those of the tables."""
    schemas = {SCHEMA, *(naming.place(table.id)[0] for table in tables)}
    return sorted(schemas | {fitted(naming.schema)} if naming.schema else schemas)


async def read_grants(
    settings: PostgresSettings, naming: Naming, tables: Sequence[Table]
) -> Grants:
    """The rights to store these tables. The role need not exist: the server does not tell its
    version then, nor which schemas it has.
    """
    parts = {name: str(value) for name, value in conninfo_to_dict(settings.url).items()}
    role = parts.get("user", "")
    database = parts.get("dbname") or role
    place = f"{parts.get('host', 'localhost')}:{parts.get('port', '5432')}"
    server, major, existing = "PostgreSQL", PARAMETER_VERSION, set[str]()
    schemas = target_schemas(naming, tables) if tables or naming.schema else []
    session = Session(settings)
    try:
        await session.connect()
        info = session.connection.info
        role, database, major = info.user, info.dbname, info.server_version // 10000
        server = f"PostgreSQL {major}.{info.server_version % 10000}"
        query = "SELECT nspname FROM pg_namespace WHERE nspname = ANY($1::text[])"
        cursor = await session.execute(query, (schemas,))
        existing = {name for (name,) in await cursor.fetchall()}
    except SinkLost:
        raise
    except SinkError:
        pass  # the role may not exist yet, or may not connect
    finally:
        await session.close()
    return Grants(
        f"{server} at {place}",
        f"CREATE ROLE {quote(role)} LOGIN PASSWORD '…';",
        list(_grants(quote(database), quote(role), schemas, existing, major)),
    )


def _grants(
    database: str, role: str, schemas: Sequence[str], existing: Collection[str], major: int
) -> Iterator[Grant]:
    yield Grant(f"GRANT CONNECT ON DATABASE {database} TO {role};", "Connects.")
    reason = "Stages the rows of a batch in temporary tables."
    yield Grant(f"GRANT TEMPORARY ON DATABASE {database} TO {role};", reason)
    if not schemas:
        reason = "Creates the schema of its state, and those of the tables."
        yield Grant(f"GRANT CREATE ON DATABASE {database} TO {role};", reason)
    for schema in schemas:
        name = quote(schema)
        reason = "Keeps its state." if schema == SCHEMA else "Creates, alters and writes tables."
        if schema in existing:
            statement = f"GRANT CREATE, USAGE ON SCHEMA {name} TO {role};"
        else:
            statement = f"CREATE SCHEMA {name} AUTHORIZATION {role};"
        yield Grant(statement, reason)
    if major >= PARAMETER_VERSION:
        statement = f"GRANT SET ON PARAMETER session_replication_role TO {role};"
        reason = (
            "Switches triggers and foreign keys of the target off while it applies rows. PostgreSQL"
            f" {PARAMETER_VERSION} or newer; needs a superuser."
        )
        yield Grant(statement, reason)
