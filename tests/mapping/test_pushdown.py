"""
Conditions that the source's server evaluates: it leaves out the rows that the mapping leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec
import pytest

from engine.change import Rows, SchemaChange
from engine.databases.mysql.connect import connect, query
from engine.databases.mysql.row_filter import accepts, condition
from engine.errors import ConfigError
from engine.mapping.changes import Mapping
from engine.mapping.reader import MappedReader
from engine.mapping.table import TableMapping
from engine.schema import Column, Table, TableId, Type
from engine.settings.mapping import TableRules
from engine.toolkit.policies import ReadPolicies
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.expressions import EXPRESSIONS, ROWS, create_odd_table, make_table
from tests.support.servers import AnyServer, connect_mysql

Fresh = Callable[[AnyServer], str]

SERVERS = ["mysql", "mariadb_11", pytest.param("mariadb_10", marks=pytest.mark.slow)]
#: An expression as conditions.
FORMS = ("{0}", "NOT ({0})", "({0}) IS NULL OR id = 3")


def mapping_of(table: Table, where: str) -> TableMapping:
    return TableMapping(table, TableRules(where=where), "")


def kept(mapping: TableMapping, rows: list[Any]) -> list[int]:
    """The keys of the rows that the mapping keeps."""
    changes = Rows(mapping.source, "insert", None, rows)
    return [row[0] for it in mapping.rows(changes, mapping.target) for row in it.after or ()]


@pytest.mark.parametrize("name", SERVERS)
def test_the_server_keeps_the_rows_that_the_mapping_keeps(
    name: str, request: pytest.FixtureRequest, fresh_mysql_database: Fresh
) -> None:
    """GIVEN odd values, with NULL and NOT NULL columns WHEN each expression is a condition THEN a
    session like those of backfills selects the rows that the generated code keeps."""
    server: AnyServer = request.getfixturevalue(name)
    database = fresh_mysql_database(server)
    with connect_mysql(server, database) as writer, writer.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = '', SESSION time_zone = '+00:00'")
        create_odd_table(cursor, "odd")
        create_odd_table(cursor, "whole", nullable=False)
        writer.commit()
    passed_on, wrong = 0, {}
    with closing(
        connect(MySQLSettings(url=server.url, tables=["*.*"]), timeout_seconds=60)
    ) as session:
        for nullable, table_name in ((True, "odd"), (False, "whole")):
            table = make_table(TableId(database, table_name), nullable=nullable)
            for where in (form.format(each) for each in EXPRESSIONS for form in FORMS):
                try:
                    mapping = mapping_of(table, where)
                except ConfigError:  # it is not a condition
                    continue
                if mapping.row_filter is None:
                    continue
                sql = condition(table, mapping.row_filter, ReadPolicies())
                if not sql or not accepts(session, table, sql):
                    continue
                passed_on += 1
                select = f"SELECT id FROM `{database}`.{table_name} WHERE {sql} ORDER BY id"
                found = [row[0] for row in query(session, select)]
                expected = kept(mapping, ROWS[not nullable :])
                if found != expected:
                    wrong[f"{table_name}: {where}"] = found, expected
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert passed_on > len(EXPRESSIONS)


@pytest.mark.parametrize("name", SERVERS)
def test_only_the_rows_that_are_kept_are_sent(
    name: str, request: pytest.FixtureRequest, fresh_mysql_database: Fresh
) -> None:
    """GIVEN a table with a key of two columns WHEN its chunks are read, from each cursor, and its
    rows for a comparison THEN only those that fulfil the condition come, all of them once."""
    server: AnyServer = request.getfixturevalue(name)
    database = fresh_mysql_database(server)
    settings = MySQLSettings(url=server.url, tables=[f"{database}.*"])
    with connect_mysql(server, database) as writer, writer.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a INT, b VARCHAR(5), c INT, PRIMARY KEY (a, b))")
        rows = [(a, f"b{b}", a * 10 + b) for a in range(30) for b in range(3)]
        cursor.executemany("INSERT INTO t VALUES (%s, %s, %s)", rows)
        writer.commit()
    with closing(MySQLSource(settings)) as source:
        (table,) = source.catalog()
        for where, readers in (("c % 7 = 1 -- one", 3), ("c % 7 = 1", 1), ("c >= 200", 3)):
            mapping = mapping_of(table, where)
            expected = [row for row in rows if (row[2] % 7 == 1 if "%" in where else row[2] >= 200)]
            pushed = mapping.row_filter
            assert (pushed is None) == ("--" in where)
            if pushed is not None:
                source.filter(table, pushed)
            position = source.position()

            def read(cursor: str | None, readers: int = readers, at: str = position) -> list[Any]:
                chunks = source.chunks(table, cursor, at, rows=4, readers=readers)
                return [(chunk.cursor, chunk.rows) for chunk in chunks]

            chunks = read(None)
            found = [row for _, each in chunks for row in each]
            assert found == (rows if pushed is None else expected)
            assert max(len(each) for _, each in chunks) <= 4
            for place, (at, each) in enumerate(chunks[:-1]):
                seen = [row for _, some in chunks[: place + 1] for row in some]
                assert [row for _, some in read(at) for row in some] == found[len(seen) :], each

            with closing(source.row_reader()) as reader:
                mapped = MappedReader(reader, _followed(table, where))
                texts = [tuple(map(str, row)) for row in expected]
                assert chunked(mapped, mapping.target) == texts
                keys = [row[:2] for row in texts]
                assert sorted(mapped.by_keys(mapping.target, [*keys, ("0", "b0")])) == sorted(texts)


def chunked(reader: MappedReader, table: Table) -> list[Any]:
    """All rows of a table, chunk by chunk."""
    found: list[Any] = []
    after = None
    while rows := reader.chunk(table, after, 4):
        found += rows
        after = rows[-1][:2]
    return found


def _followed(table: Table, where: str) -> Mapping:
    mapping = Mapping({"*.*": TableRules(where=where)})
    mapping.targets([SchemaChange("", None, table)])
    return mapping


@pytest.mark.parametrize("name", SERVERS)
def test_a_condition_that_the_server_does_not_know(
    name: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: Fresh,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """GIVEN a condition with a name of another dialect WHEN the table is read THEN all rows come,
    and the log says so."""
    server: AnyServer = request.getfixturevalue(name)
    database = fresh_mysql_database(server)
    with connect_mysql(server, database) as writer, writer.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, price DECIMAL(5,2))")
        cursor.execute("INSERT INTO t VALUES (1, 1.5), (2, -0.5)")
        writer.commit()
    settings = MySQLSettings(url=server.url, tables=[f"{database}.*"])
    with closing(MySQLSource(settings)) as source:
        (table,) = source.catalog()
        pushed = mapping_of(table, "trunc(price, 0) > 0").row_filter
        assert pushed is not None
        source.filter(table, pushed)
        (chunk,) = source.chunks(table, None, source.position(), rows=10, readers=1)
    assert len(chunk.rows) == 2
    assert "sends all rows" in caplog.text


def test_what_the_server_must_not_evaluate() -> None:
    """A condition is not passed on if it may fail, has a comment, or means something else there."""
    table = make_table(TableId("shop", "odd"), nullable=False)
    for where in (
        "big + 1 > 0",
        "id > 1 # comment",
        "id > 1 /*! OR 1 */",
        "day IS NOT NULL",
        "moment <=> null",
        "1 = 1",
    ):
        assert mapping_of(table, where).row_filter is None, where
    for where in ("id + 1 > 0", "name IS NULL", "state = 'new'", "day > '2020-01-01'"):
        assert mapping_of(table, where).row_filter is not None, where
    ascii = msgspec.structs.replace(
        table,
        columns=(
            table.columns[0],
            Column("a", Type("text"), "varchar(9) character set ascii collate ascii_general_ci"),
        ),
    )
    pushed = mapping_of(ascii, "a = 'x'").row_filter
    assert pushed is not None
    assert not condition(ascii, pushed, ReadPolicies())
