"""What a source tells of its tables besides columns and rows."""

from __future__ import annotations

from contextlib import closing

from engine.schema import TableId
from engine.structure import Counter
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer


def test_counters_are_those_of_now(
    mysql_family: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    """GIVEN counters that were read before WHEN rows are inserted and deleted THEN the counter is
    past the deleted rows at once, although MySQL shows statistics of a day ago."""
    database = Writer(mysql_family, fresh_mysql_database(mysql_family))
    name = database.database
    numbered, unused = TableId(name, "numbered"), TableId(name, "unused")
    database(
        "CREATE TABLE numbered (n INT, id INT AUTO_INCREMENT PRIMARY KEY)",
        "CREATE TABLE unused (id INT AUTO_INCREMENT PRIMARY KEY)",
        "CREATE TABLE plain (id INT PRIMARY KEY)",
        "INSERT INTO numbered (n) VALUES (1)",
        "SELECT AUTO_INCREMENT FROM information_schema.TABLES",
    )
    settings = MySQLSettings(url=mysql_family.url, tables=(f"{name}.*",))
    with closing(MySQLSource(settings)) as source:
        tables = source.catalog()
        assert source.counters(tables)[numbered] == Counter("id", 2)
        database("INSERT INTO numbered VALUES (1, 5000)", "DELETE FROM numbered")
        found = source.counters(tables)
        assert found[numbered] == Counter("id", 5001)
        assert found.keys() <= {numbered, unused}
        details = source.structure(tables).tables
        assert (details[numbered].numbered, details[numbered].next_number) == ("id", 5001)
        assert details[unused].next_number in (0, 1)
    database.connection.close()


def test_expressions_are_shown_as_people_write_them(
    mysql_family: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    database = Writer(mysql_family, fresh_mysql_database(mysql_family))
    name = database.database
    database(
        """CREATE TABLE t (id INT PRIMARY KEY, `ü` INT,
        a VARCHAR(30) DEFAULT (CONCAT('é\\'\\\\', 'Ã©', '_utf8mb4')),
        CONSTRAINT c CHECK (a <> 'é''_utf8mb4' AND `ü` > 0))"""
    )
    settings = MySQLSettings(url=mysql_family.url, tables=(f"{name}.*",))
    with closing(MySQLSource(settings)) as source:
        (table,) = source.catalog()
        details = source.structure([table]).tables[table.id]
    default = details.defaults.get("a", table.columns[2].default)
    assert default == "concat('é\\'\\\\','Ã©','_utf8mb4')"
    text = details.checks[0].text.replace("(", "").replace(")", "")
    assert text == "`a` <> 'é\\'_utf8mb4' and `ü` > 0"
    database.connection.close()
