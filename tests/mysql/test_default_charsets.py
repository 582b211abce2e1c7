"""
The charset of columns whose statement names none, where the log has no metadata to tell it.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from engine.change import SchemaChange
from engine.sandbox import Server
from engine.schema import TableId
from sources.mysql.binlog.query_event import Query
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.catalog import read_catalog
from sources.mysql.ddl.databases import DatabaseCharsets
from tests.support.default_charsets import WORD, charsets_of
from tests.support.following import Following
from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer, drop_mysql_database

# {db} is the session's database, {db}_2 another one.
STATEMENTS = [
    "ALTER DATABASE {db} CHARACTER SET cp1251",
    "CREATE TABLE altered (id INT PRIMARY KEY, v TEXT)",
    "ALTER DATABASE COLLATE koi8r_bin",
    "CREATE TABLE current (id INT PRIMARY KEY, v TEXT, w VARCHAR(9) COLLATE cp866_bin)",
    "SET collation_database = cp866_bin, collation_server = cp866_bin",
    "CREATE TABLE session (id INT PRIMARY KEY, v TEXT)",
    "CREATE DATABASE {db}_2",
    "CREATE TABLE {db}_2.elsewhere (id INT PRIMARY KEY, v TEXT)",
    "CREATE TABLE mixed (id INT PRIMARY KEY, a TEXT CHARACTER SET utf8mb4) DEFAULT CHARSET cp866",
    "ALTER TABLE mixed ADD b TEXT, ADD c VARCHAR(9)",
    "ALTER TABLE mixed DEFAULT CHARACTER SET = koi8r, ADD d TEXT",
    "ALTER TABLE mixed MODIFY c VARCHAR(10) NOT NULL DEFAULT '', ADD e ENUM('{word}')",
    "CREATE TABLE likeness LIKE mixed",
    "ALTER TABLE likeness ADD f CHAR(9)",
    "CREATE TABLE numbers (id INT PRIMARY KEY) DEFAULT CHARSET cp866",
    "ALTER TABLE numbers ADD v TEXT",
    "RENAME TABLE numbers TO {db}_2.numbers",
    "ALTER TABLE {db}_2.numbers ADD w TEXT",
    "CREATE TABLE converted (id INT PRIMARY KEY, v TEXT) CHARSET cp1251",
    "ALTER TABLE converted CONVERT TO CHARACTER SET koi8r",
    "ALTER TABLE converted ADD w VARCHAR(9)",
    "ALTER TABLE converted CONVERT TO CHARSET cp866, ADD x TEXT CHARSET koi8r, ADD y NCHAR(9)",
    "CREATE TABLE collated (id INT KEY, v TEXT COLLATE cp866_bin, w TEXT CHARSET utf8)",
    "ALTER TABLE collated COLLATE koi8r_bin",
    "ALTER TABLE collated ADD x CHAR(9) BINARY, ADD y NCHAR(9)",
    "ALTER TABLE collated COLLATE cp1251_bin, ADD z TEXT",
]
MARIADB_ONLY = [
    "CREATE TABLE named (id INT PRIMARY KEY, v TEXT) CHARACTER SET DEFAULT",
    "ALTER TABLE named CHARACTER SET utf8mb4",
    "ALTER TABLE named CHARACTER SET DEFAULT, ADD w TEXT",
    "ALTER TABLE converted CONVERT TO CHARACTER SET DEFAULT",
    "ALTER DATABASE {db} CHARACTER SET DEFAULT",
    "CREATE TABLE server (id INT PRIMARY KEY, v TEXT)",
    "CREATE OR REPLACE DATABASE {db}_2 CHARACTER SET cp1251",
    "CREATE TABLE {db}_2.anew (id INT PRIMARY KEY, v TEXT)",
    "SET old_mode = ''",
    "CREATE TABLE longer (id INT PRIMARY KEY, v CHAR(9), w TEXT) CHARACTER SET utf8",
    "ALTER DATABASE {db} CHARACTER SET utf8",
    "CREATE TABLE longer_2 (id INT PRIMARY KEY, v VARCHAR(9) COLLATE uca1400_ai_ci, w CHAR(9))",
]


def test_default_charsets_are_known(
    silent_log: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    """GIVEN a stream that has reached the end of the log WHEN the defaults of databases, sessions
    and tables change THEN each new column has the charset that the server gave it."""
    more = MARIADB_ONLY if silent_log.kind == "mariadb" else []
    _follow(silent_log, fresh_mysql_database(silent_log), [*STATEMENTS, *more])


@pytest.mark.slow
def test_default_charsets_of_old_servers_are_known(
    old_server: Server, fresh_mysql_database: FreshDatabase
) -> None:
    _follow(old_server, fresh_mysql_database(old_server), STATEMENTS)


def _follow(server: AnyServer, database: str, statements: list[str]) -> None:
    writer = Writer(server, database)
    source = source_of(server, database, tables=(f"{database}.*", f"{database}_2.*"))
    writer("SET sql_mode = 'STRICT_ALL_TABLES'")  # not the default of old servers
    with Following(source, source.position(), []) as stream:
        stream.wait()
        for statement in statements:
            writer(statement.format(db=database, word=WORD))
        live = read_catalog(writer.connection, lambda id: id.schema.startswith(database))
        for table in live:
            words = ", ".join(f"'{WORD}'" for _ in table.columns[1:])
            writer(f"INSERT INTO {table.id} VALUES (1, {words})")
        stream.wait()
    writer.connection.close()
    drop_mysql_database(server, f"{database}_2")
    followed: set[TableId] = set()
    for change in stream.changes:
        if isinstance(change, SchemaChange):
            followed -= {change.before.id} if change.before else set()
            followed |= {change.after.id} if change.after else set()
    assert followed == {table.id for table in live}
    found = {change.table.id: change for change in stream.rows}
    assert set(found) == {table.id for table in live}
    for table in live:
        rows = found[table.id]
        assert rows.after == [(1, *(WORD for _ in table.columns[1:]))], table.id
        assert charsets_of(rows.table) == charsets_of(table), table.id


def test_what_a_later_statement_may_have_changed_is_not_taken_from_the_catalog(
    silent_log: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    """GIVEN a part of the log that is read late WHEN it creates tables without a charset THEN the
    database's charset of now is not used for them."""
    database = fresh_mysql_database(silent_log)
    writer = Writer(silent_log, database)
    source = source_of(silent_log, database)
    start = source.position()
    writer(
        "CREATE TABLE stated (id INT PRIMARY KEY, v TEXT) CHARSET cp1251",
        f"INSERT INTO stated VALUES (1, '{WORD}')",
        "CREATE TABLE unstated (id INT PRIMARY KEY, v TEXT)",
        f"INSERT INTO unstated VALUES (1, '{WORD}')",
        f"ALTER DATABASE {database} CHARACTER SET koi8r",
    )
    writer.connection.close()
    with Following(source, start, []) as stream:
        if silent_log.kind == "mysql":  # its log always has the charsets
            stream.wait()
        else:
            error = stream.failure()
            assert error.table == f"{database}.unstated"
            assert "the character set of the column v is unknown" in error.message
    for rows in stream.rows:
        assert rows.after == [(1, WORD)]


def test_such_a_table_is_backfilled(
    silent_log: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: FreshDatabase,
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """GIVEN a pipeline that is down WHEN a table is created without a charset, and the database
    gets another one THEN the table is read with its own charset after the next start."""
    database, target = fresh_mysql_database(silent_log), fresh_postgres_database(postgres)
    writer = Writer(silent_log, database)
    writer("CREATE TABLE older (id INT PRIMARY KEY, v TEXT CHARACTER SET cp866)")
    catch_up(make_pipeline(silent_log.url, target, [f"{database}.*"]))
    writer(
        f"ALTER DATABASE {database} CHARACTER SET cp1251",
        "CREATE TABLE unstated (id INT PRIMARY KEY, v TEXT)",
        f"INSERT INTO unstated VALUES (1, '{WORD}')",
        "ALTER TABLE older ADD w TEXT",
        f"INSERT INTO older VALUES (1, '{WORD}', '{WORD}')",
        f"ALTER DATABASE {database} CHARACTER SET koi8r",
        f"INSERT INTO unstated VALUES (2, '{WORD}')",
    )
    catch_up(make_pipeline(silent_log.url, target, [f"{database}.*"]))
    writer.connection.close()
    with psycopg.connect(target) as there:
        for table, rows in (("older", [(1, WORD, WORD)]), ("unstated", [(1, WORD), (2, WORD)])):
            found = there.execute(f"SELECT * FROM {database}.{table} ORDER BY 1").fetchall()  # type: ignore[call-overload]
            assert found == rows


def test_the_catalog_counts_from_the_place_where_it_was_read() -> None:
    databases = DatabaseCharsets({"shop": "koi8r_bin", "other": "latin1_swedish_ci"})
    tracking = Tracking([], lambda id: True, databases=databases)

    def default(statement: str) -> str:
        [change] = tracking.follow(Query("shop", b"", statement.encode()))
        assert isinstance(change, SchemaChange)
        assert change.after is not None
        return change.after.default_charset

    def run(statement: str, error: int = 0) -> None:
        assert not tracking.follow(Query("shop", b"", statement.encode(), error=error))

    assert default("CREATE TABLE a (v TEXT)") == ""
    run("CREATE DATABASE IF NOT EXISTS shop CHARACTER SET greek")
    assert default("CREATE TABLE b (v TEXT)") == ""
    run("ALTER DATABASE other CHARACTER SET cp1251")
    assert default("CREATE TABLE other.a (v TEXT)") == "cp1251"
    tracking.reach_catalog()
    assert default("CREATE TABLE c (v TEXT)") == "koi8r_bin"
    assert default("CREATE TABLE other.b (v TEXT)") == "cp1251"
    run("ALTER DATABASE CHARACTER SET hebrew", error=1)
    run("CREATE DATABASE IF NOT EXISTS shop CHARACTER SET greek")
    assert default("CREATE TABLE d (v TEXT)") == "koi8r_bin"
    run("ALTER DATABASE shop COLLATE DEFAULT")
    assert default("CREATE TABLE e (v TEXT)") == "koi8r_bin"
    tracking.follow(Query("shop", b"", b"DROP DATABASE shop"))
    run("CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8")
    assert default("CREATE TABLE f (v TEXT)") == "utf8mb3"
    assert TableId("shop", "f") in tracking.tables
