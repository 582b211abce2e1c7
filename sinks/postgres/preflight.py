"""
Preflight checks of the target: its version and encoding, the role's rights, existing tables, and
tables or columns that PostgreSQL cannot store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from engine.contract import Finding
from engine.databases.postgres.identifiers import Naming, fitted, quote
from engine.databases.postgres.stored import Storage
from engine.databases.postgres.types import TEMPORAL, CollatedColumn
from engine.errors import ApplyError, SinkError, SinkLost
from engine.schema import Table, Type
from engine.toolkit.hosts import is_local
from sinks.postgres.ddl import indexable
from sinks.postgres.existing import refuse_existing, refuse_owned
from sinks.postgres.rights import target_schemas
from sinks.postgres.schema import is_reserved
from sinks.postgres.session import Session
from sinks.postgres.staging import refuse_without_right
from sinks.postgres.state import SCHEMA, StateStore

__all__ = ["check"]

OLDEST_VERSION, NEWEST_VERSION = 13, 18
#: The most columns that a table can have. A row must also fit into one page, its long values aside,
#: so a table of wide columns may reach its limit earlier.
MAX_COLUMNS = 1600
#: PostgreSQL manual, "B-Tree Indexes": a third of a page.
MAX_INDEX_ROW_BYTES = 2704
UTF8_BYTES = 4


#: The names of relations and of types that are not made with a relation or another type.
_NAMES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY($1::text[])
UNION SELECT n.nspname, t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = ANY($1::text[]) AND t.typrelid = 0 AND t.typcategory <> 'A'"""
_SCHEMA_RIGHTS = """
SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')
FROM pg_namespace WHERE nspname = $1"""
#: Of the tables with these schemas and names, and of the ordinary tables of another schema.
_MISSING_RIGHTS = """
SELECT n.nspname, c.relname, string_agg(it, ', ' ORDER BY it)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) it
WHERE c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, it)
AND (n.nspname = $3 OR (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[])))
GROUP BY n.nspname, c.relname"""
_EVENT_TRIGGERS = """
SELECT quote_ident(evtname) FROM pg_event_trigger
WHERE evtevent IN ('ddl_command_start', 'ddl_command_end')
AND evtenabled = ANY(
    CASE current_setting('session_replication_role') WHEN 'replica' THEN '{R,A}' ELSE '{O,A}' END
    ::"char"[])
ORDER BY evtname"""


async def check(
    session: Session,
    naming: Naming,
    pipeline: str,
    tables: Sequence[Table],
    storage: Storage,
) -> list[Finding]:
    """All findings, from the server to the columns. Changes nothing."""
    findings = [*_version(session), *_protection(session)]
    findings += [*await _encoding(session), *_triggers(session)]
    if standby := await _standby(session):
        return [*findings, standby]
    rights = await _rights(session, naming, tables)
    findings += rights
    if all(finding.level == "ok" for finding in rights):
        findings += await _event_triggers(session)
    findings += await _existing(session, naming, pipeline, tables, storage)
    findings += await _writes(session, naming, pipeline)
    findings += _names(naming, tables)
    findings += _unmatched(storage, tables)
    findings += _plain(storage, tables)
    findings += await _collations(session, storage, tables)
    for table in tables:
        findings += _limits(storage.table(table))
    return findings


def _version(session: Session) -> Iterator[Finding]:
    number = session.connection.info.server_version
    major, text = number // 10000, f"PostgreSQL {number // 10000}.{number % 10000}"
    if major < OLDEST_VERSION:
        action = f"Use PostgreSQL {OLDEST_VERSION} or newer."
        yield Finding("error", "target version", f"{text} is too old", action, code="PG001")
    elif major > NEWEST_VERSION:
        yield Finding(
            "warning", "target version", f"{text} is newer than the versions tested", code="PG002"
        )
    else:
        yield Finding("ok", "target version", text)


def _protection(session: Session) -> Iterator[Finding]:
    """Whether the connection is encrypted, and the server's certificate verified."""
    connection = session.connection
    encrypted = connection.pgconn.ssl_in_use
    options = {
        option.keyword.decode(): (option.val or b"").decode() for option in connection.pgconn.info
    }
    mode = options.get("sslmode", "")
    # With a root certificate libpq verifies for sslmode=require, too (manual, "SSL Support").
    authority = options.get("sslrootcert", "")
    verified = encrypted and (mode.startswith("verify") or (mode == "require" and bool(authority)))
    action = "sslmode=verify-full&sslrootcert=/path/of/ca.pem in the query of [sink] url"
    if authority and not verified:
        message = f"sslrootcert is set and not used: sslmode is {mode}"
        yield Finding("warning", "target tls", message, action, code="PG009")
    if is_local(connection.info.host):
        yield Finding("ok", "target tls", "the target is on this machine")
    elif not encrypted:
        message = "the connection to the target is not encrypted"
        yield Finding("warning", "target tls", message, action, code="PG007")
    elif not verified:
        message = "the connection is encrypted, and the server's certificate is not verified"
        yield Finding("warning", "target tls", message, action, code="PG008")
    else:
        yield Finding("ok", "target tls", "encrypted, and the certificate is verified")


async def _encoding(session: Session) -> list[Finding]:
    cursor = await session.execute("SHOW server_encoding")
    (encoding,) = await cursor.fetchone() or ("",)
    if encoding == "UTF8":
        return [Finding("ok", "target encoding", "UTF8")]
    action = "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and use that database."
    message = (
        f"the database's encoding is {encoding}: a row with a character that it lacks quarantines"
        " its table"
    )
    return [Finding("warning", "target encoding", message, action, code="PG003")]


def _triggers(session: Session) -> Iterator[Finding]:
    if session.replica_role:
        yield Finding("ok", "target triggers", "off while rows are applied")
        return
    role = quote(session.connection.info.user)
    yield Finding(
        "warning",
        "target triggers",
        "session_replication_role cannot be set, so triggers and foreign keys that you add to the"
        " target act on every applied row",
        f"GRANT SET ON PARAMETER session_replication_role TO {role}; (PostgreSQL 15 or newer, as"
        " superuser), or add no triggers and foreign keys before the cutover.",
        code="PG004",
    )


async def _standby(session: Session) -> Finding | None:
    cursor = await session.execute("SELECT pg_is_in_recovery()")
    if await cursor.fetchone() != (True,):
        return None
    return Finding(
        "error",
        "target",
        "the server is a standby, which cannot be written",
        "Point [sink] url at its primary, or name all servers there with"
        " target_session_attrs=read-write.",
        code="PG023",
    )


async def _event_triggers(session: Session) -> list[Finding]:
    """Whether event triggers refuse a new table. One is created in a transaction, and rolled back.

    The role may create the schemas and tables of the pipeline, and perhaps no other schema.
    """
    cursor = await session.execute(_EVENT_TRIGGERS)
    names = [name for (name,) in await cursor.fetchall()]
    if not names:
        return []
    cursor = await session.execute("SELECT has_database_privilege(current_database(), 'CREATE')")
    creates_schemas = await cursor.fetchone() == (True,)
    name = f"tailrace_check_{session.connection.info.backend_pid}"
    schema = name if creates_schemas else SCHEMA
    try:
        await session.begin()
        if creates_schemas:
            await session.execute_bulk(f"CREATE SCHEMA {quote(schema)}")
        await session.execute_bulk(f"CREATE TABLE {quote(schema, name)} (id integer PRIMARY KEY)")
        return []
    except SinkLost:
        raise
    except (SinkError, ApplyError):
        message = f"an event trigger refuses a new table: {', '.join(names)}"
        action = f"ALTER EVENT TRIGGER {names[0]} DISABLE; or exempt the role in its function."
        return [Finding("error", "target event triggers", message, action, code="PG024")]
    finally:
        await session.rollback()


async def _rights(session: Session, naming: Naming, tables: Sequence[Table]) -> list[Finding]:
    role = quote(session.connection.info.user)
    findings = []
    try:
        await refuse_without_right(session)
    except SinkLost:
        raise
    except SinkError as error:
        message, action = error.message, error.hint
        findings.append(Finding("error", "target rights", message, action, code="PG005"))
    cursor = await session.execute("SELECT has_database_privilege(current_database(), 'CREATE')")
    (may_create,) = await cursor.fetchone() or (False,)
    for schema in target_schemas(naming, tables):
        cursor = await session.execute(_SCHEMA_RIGHTS, (schema,))
        row = await cursor.fetchone()
        if row == (True,) or (row is None and may_create):
            continue
        verb = (
            "CREATE SCHEMA {0} AUTHORIZATION {1};"
            if row is None
            else "GRANT CREATE, USAGE ON SCHEMA {0} TO {1};"
        )
        message = f"tables cannot be created in schema {schema}"
        action = verb.format(quote(schema), role)
        findings.append(Finding("error", "target rights", message, action, code="PG006"))
    return findings or [Finding("ok", "target rights", "schemas and tables can be created")]


async def _existing(
    session: Session, naming: Naming, pipeline: str, tables: Sequence[Table], storage: Storage
) -> list[Finding]:
    """Relations at a table's place that were not created by this pipeline, and cannot be used."""
    places = {naming.place(table.id): table for table in tables}
    cursor = await session.execute(_NAMES, (sorted({schema for schema, _ in places}),))
    existing = {(schema, name) for schema, name in await cursor.fetchall()} & set(places)
    owners = await StateStore(session, pipeline, naming).owners()
    findings = []
    for place in sorted(existing):
        table, owner = places[place], owners.get(place)
        if owner == pipeline:
            continue
        try:
            if owner is not None:
                raise refuse_owned(owner, table.id)
            await session.begin()
            await refuse_existing(session, storage.table(table), quote(*place))
        except SinkLost:
            raise
        except SinkError as error:
            message, action = error.message, error.hint
            findings.append(Finding("error", str(table.id), message, action, code="PG010"))
        finally:
            await session.rollback()
    return findings


async def _writes(session: Session, naming: Naming, pipeline: str) -> list[Finding]:
    """The rights that the role lacks on the tables that the pipeline has made, and on its state."""
    owners = await StateStore(session, pipeline, naming).owners()
    places = [place for place, owner in owners.items() if owner == pipeline]
    schemas, names = [schema for schema, _ in places], [name for _, name in places]
    cursor = await session.execute(_MISSING_RIGHTS, (schemas, names, SCHEMA))
    by_rights: dict[str, list[str]] = {}
    for schema, name, rights in await cursor.fetchall():
        by_rights.setdefault(rights, []).append(quote(schema, name))
    role = quote(session.connection.info.user)
    return [
        Finding(
            "error",
            "target rights",
            f"the role lacks {rights} on {', '.join(sorted(tables))}",
            f"GRANT {rights} ON {', '.join(sorted(tables))} TO {role};",
            code="PG025",
        )
        for rights, tables in sorted(by_rights.items())
    ]


def _names(naming: Naming, tables: Sequence[Table]) -> Iterator[Finding]:
    for place, count in Counter(naming.place(table.id) for table in tables).items():
        if count > 1:
            yield Finding(
                "error",
                ".".join(place),
                f"{count} tables of the source map to this one table of the target",
                "Leave [sink] schema empty, so that each schema of the source has its own.",
                code="PG011",
            )
    for schema in sorted({naming.place(table.id)[0] for table in tables}):
        if is_reserved(schema):
            action = "Set [sink] schema to another name."
            yield Finding(
                "error",
                schema,
                "this schema's name is reserved on the target",
                action,
                code="PG012",
            )
    for table in tables:
        for name in (naming.schema or table.id.schema, table.id.name, *table.names):
            if fitted(name) != name:
                yield Finding(
                    "warning",
                    str(table.id),
                    f"PostgreSQL cannot have the name {name}, which is too long or that of a system"
                    f" column: it is {fitted(name)} there",
                    "Rename it in the source if you want another name.",
                    code="PG013",
                )


def _unmatched(storage: Storage, tables: Sequence[Table]) -> Iterator[Finding]:
    for pattern in storage.unmatched(tables) if tables else ():
        yield Finding(
            "warning",
            "sink.values",
            f"{pattern!r} matches no followed table, or no column of one",
            "Check its spelling. A table that is created later may match.",
            code="PG014",
        )


def _plain(storage: Storage, tables: Sequence[Table]) -> Iterator[Finding]:
    for table in tables:
        for column, reason in storage.plain(table).items():
            yield Finding(
                "warning",
                str(table.id),
                f"the generated column {column} is stored as a plain column: {reason}",
                "Its values are those of the source. If that is enough:"
                f' "TABLE.{column}" = {{ generated = "plain" }} in [sink.values.columns].',
                code="PG020",
            )


async def _collations(session: Session, storage: Storage, tables: Sequence[Table]) -> list[Finding]:
    findings = [
        Finding(
            "warning",
            str(table.id),
            f"the column {column} keeps the default collation: no collation of ICU is known to"
            " compare like the source's",
            "Give it a collation on the target before applications write to it, if they need one.",
            code="PG021",
        )
        for table in tables
        for column in storage.uncollated(table)
    ]
    collated = any(
        isinstance(column, CollatedColumn)
        for table in tables
        for column in storage.table(table).columns
    )
    query = "SELECT 1 FROM pg_collation WHERE collprovider = 'i' LIMIT 1"
    if collated and not await session.execute_bulk(query):
        message = 'the server was built without ICU, which collation = "source" needs'
        action = 'Use a server with ICU, or set collation = "default" in [sink.values].'
        findings.append(Finding("error", "collations", message, action, code="PG022"))
    return findings


def _limits(table: Table) -> Iterator[Finding]:
    """Limits of PostgreSQL that the table's columns, key or indexes exceed or may exceed."""
    subject = str(table.id)
    if len(table.columns) > MAX_COLUMNS:
        message = f"{len(table.columns)} columns are more than the {MAX_COLUMNS} of PostgreSQL"
        action = 'Set drop = ["…"] in [mapping."TABLE"], or add "TABLE" to exclude in [source].'
        yield Finding("error", subject, message, action, code="PG015")
    if not table.key:
        yield Finding(
            "warning",
            subject,
            "the table has no key: each update or delete reads the whole table on the target",
            "Add a primary key in the source if the table changes often.",
            code="PG017",
        )
    indexes = [("key", table.key)] if table.key else []
    indexes += [(f"index {it.name}", it.columns) for it in table.indexes if indexable(table, it)]
    shares = [len(it.share.encode()) for it in table.origins if it.share]
    for name, ordinals in indexes:
        widest = sum(
            max(shares) if shares and ordinal == 0 else _widest_bytes(table.columns[ordinal].type)
            for ordinal in ordinals
        )
        if widest > MAX_INDEX_ROW_BYTES:
            yield Finding(
                "warning",
                subject,
                f"the {name} can hold up to {MAX_INDEX_ROW_BYTES} bytes per row on the target, and"
                " its columns allow longer values: such a row quarantines the table",
                "Check for long values in the source, or shorten the columns there.",
                code="PG018",
            )
    for ordinal in table.key:
        column = table.columns[ordinal]
        if column.type.kind in TEMPORAL:
            yield Finding(
                "warning",
                subject,
                f"key column {column.name} must not hold a date such as 2020-02-00: PostgreSQL"
                " cannot store it; 0000-00-00 becomes -infinity",
                f'If it does: "TABLE.{column.name}" = {{ zero_date = "text" }} in'
                " [sink.values.columns].",
                code="PG019",
            )


def _widest_bytes(type: Type) -> int:
    """The maximum size of a value in an index row, in bytes. Types of a small fixed size count as
    16."""
    match type.kind:
        case "text":
            return type.length * UTF8_BYTES or MAX_INDEX_ROW_BYTES + 1
        case "binary":
            return type.length or MAX_INDEX_ROW_BYTES + 1
        case "enum":
            return max((len(member.encode()) for member in type.members), default=0)
        case "set":
            return sum(len(member.encode()) + 1 for member in type.members)
        case "decimal":
            return 8 + type.precision // 2
        case _:
            return 16
