"""
Sessions that log statements instead of rows, while the pipeline runs: the target equals the source.
"""

from __future__ import annotations

import psycopg
import pytest

from engine.databases.mysql.connect import query
from tests.support.compare import differences
from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer

OBJECTS = (
    "CREATE TABLE one (id INT PRIMARY KEY)",
    "CREATE TABLE two (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE noise (id INT PRIMARY KEY)",
    "CREATE VIEW shown AS SELECT id FROM one",
    """
    CREATE TRIGGER both_ AFTER INSERT ON noise FOR EACH ROW BEGIN
      INSERT INTO one VALUES (NEW.id); INSERT INTO two VALUES (NEW.id, 1);
    END
    """,
    "INSERT INTO two VALUES (1, 1), (2, 2)",
)


@pytest.mark.parametrize(
    "server",
    ["mysql", *(pytest.param(it, marks=pytest.mark.slow) for it in ("mariadb_10", "mariadb_11"))],
)
def test_changes_in_statement_format_are_backfilled(
    server: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
) -> None:
    """A trigger changes two tables, a view one, and a temporary table hides one."""
    source: AnyServer = request.getfixturevalue(server)
    writer = Writer(source, fresh_mysql_database(source))
    name = writer.database
    tables = [f"{name}.one", f"{name}.two"]
    writer(*OBJECTS)
    catch_up(make_pipeline(source.url, target_database, tables))
    writer("SET binlog_format = STATEMENT", "INSERT INTO noise VALUES (10), (11)")
    writer("CREATE TEMPORARY TABLE two (id INT)", "TRUNCATE TABLE two", "DROP TABLE two")
    writer("UPDATE two SET v = 3 WHERE id = 2", "DELETE FROM shown WHERE id = 10")
    writer.reconnect()
    writer("INSERT INTO one VALUES (12)")
    catch_up(make_pipeline(source.url, target_database, tables))
    with psycopg.connect(target_database) as target:
        for table in ("one", "two"):
            select = f"SELECT * FROM {name}.{table} ORDER BY id"
            assert target.execute(select).fetchall() == list(query(writer.connection, select))


#: Each statement has tables and programs of its own: a table ``t`` that is followed, and ``p`` that
#: is not.
PROGRAMS = {
    "view": ("CREATE VIEW {0}_v AS SELECT id, v FROM {0}_t",),
    "trigger": (
        """CREATE TRIGGER {0}_r AFTER INSERT ON {0}_p FOR EACH ROW
        INSERT INTO {0}_t VALUES (NEW.id, 'by the trigger')""",
    ),
    "function": (
        """CREATE FUNCTION {0}_f(n INT) RETURNS INT MODIFIES SQL DATA DETERMINISTIC
        BEGIN UPDATE {0}_t SET v = 'by the function' WHERE id = n; RETURN n; END""",
    ),
    "procedure": (
        """CREATE PROCEDURE {0}_c(n INT) BEGIN DECLARE m INT DEFAULT n + 10;
        DELETE FROM {0}_t WHERE id = n; INSERT INTO {0}_t VALUES (m, CONCAT('c', m)); END""",
    ),
    "dynamic": (
        """CREATE PROCEDURE {0}_c(s VARCHAR(200))
        BEGIN SET @s = s; PREPARE x FROM @s; EXECUTE x; END""",
    ),
    "nested": (
        "CREATE VIEW {0}_v AS SELECT id FROM {0}_p",
        "CREATE PROCEDURE {0}_c(n INT) INSERT INTO {0}_t VALUES (n, 'by the procedure')",
        """CREATE FUNCTION {0}_f(n INT) RETURNS INT MODIFIES SQL DATA DETERMINISTIC
        BEGIN CALL {0}_c(n); RETURN n; END""",
        "CREATE TRIGGER {0}_r BEFORE INSERT ON {0}_p FOR EACH ROW SET @m = {0}_f(NEW.id)",
    ),
}
#: The last statement of each is one that the server cannot repeat, so MIXED logs it as rows.
CHANGES = {
    "view": (
        "UPDATE {0}_v SET v = UPPER(v) WHERE id < 3",
        "DELETE FROM {0}_v WHERE id = 3",
        "UPDATE {0}_v SET v = UUID()",
    ),
    "trigger": (
        "INSERT INTO {0}_p VALUES (20), (21)",
        "REPLACE INTO {0}_p VALUES (20 + 2)",
        "INSERT INTO {0}_p VALUES (50 + FLOOR(RAND() * 9))",
    ),
    "function": (
        "SELECT {0}_f(1)",
        "INSERT INTO {0}_p SELECT {0}_f(2)",
        "DO {0}_f(3)",
        "INSERT INTO {0}_p SELECT {0}_f(1) + 60 + FLOOR(RAND() * 9)",
    ),
    "procedure": ("CALL {0}_c(1)", "CALL {0}_c(CONNECTION_ID())"),
    "dynamic": (
        "CALL {0}_c('UPDATE {0}_t SET v = 7')",
        "CALL {0}_c('TRUNCATE TABLE {0}_t')",
        "CALL {0}_c('INSERT INTO {0}_t VALUES (70, UUID())')",
    ),
    "nested": (
        "INSERT INTO {0}_v VALUES (31), (32)",
        "INSERT INTO {0}_v SELECT 80 + FLOOR(RAND() * 9)",
    ),
}


@pytest.mark.parametrize("format", ["MIXED", "STATEMENT"])
def test_changes_under_another_name(
    mysql_family: AnyServer, format: str, fresh_mysql_database: FreshDatabase, target_database: str
) -> None:
    """GIVEN tables that views, triggers, functions and procedures change WHEN a session logs that
    as statements or as rows, between rows of another session THEN the target equals the source."""
    writer = Writer(mysql_family, fresh_mysql_database(mysql_family))
    writer("SET @@GLOBAL.log_bin_trust_function_creators = 1")
    changes = {f"{kind}{n}": it for kind in CHANGES for n, it in enumerate(CHANGES[kind])}
    for name in changes:
        writer(f"CREATE TABLE {name}_t (id INT PRIMARY KEY, v VARCHAR(50))")
        writer(f"CREATE TABLE {name}_p (id INT PRIMARY KEY)")
        writer(f"INSERT INTO {name}_t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')")
        writer(*(program.format(name) for program in PROGRAMS[name.rstrip("0123456789")]))
    tables = [f"{writer.database}.{name}_t" for name in changes]
    catch_up(make_pipeline(mysql_family.url, target_database, tables))
    other = Writer(mysql_family, writer.database)
    writer(f"SET binlog_format = {format}")
    for name, statement in changes.items():
        other(f"UPDATE {name}_t SET v = 'row' WHERE id = 4")
        writer(statement.format(name))
        other(f"INSERT INTO {name}_t VALUES (99, 'row')")
    pipeline = make_pipeline(mysql_family.url, target_database, tables)
    catch_up(pipeline)
    assert {it.state for it in pipeline.status().tables} == {"live"}
    with psycopg.connect(target_database, autocommit=True) as target:
        found = differences(writer.connection, target, writer.database)
        assert not {name: text for name, text in found.items() if name.endswith("_t")}
    writer.connection.close()
    other.connection.close()
