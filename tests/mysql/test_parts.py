"""Chunks of a part of a table: the same rows as those of its partitions."""

from __future__ import annotations

from collections.abc import Callable

from engine.schema import Part, joined_ranges
from tests.support.mysql_chunks import MakeReader, current_position
from tests.support.mysql_log import live_table
from tests.support.servers import AnyServer, connect_mysql

DAYS = [
    *("0000-00-00", "0001-00-00", "2018-12-31", "2019-00-00", "2019-00-15", "2019-01-00"),
    *("2019-01-31", "2019-02-00", "2019-02-28", "2019-02-31", "2019-03-00", "2019-03-01"),
    *("2019-11-31", "2019-12-31", "2020-00-00", "2020-01-01", "2020-02-29", "2020-02-31"),
    *("2020-03-01", "9999-12-31"),
]
NUMBERS = ["-2147483648", "-5", "-4", "0", "6", "7", "2147483647"]
TIMES = ["1970-01-01 00:00:01", "2020-01-31 23:59:59", "2020-02-01 00:00:00", "2037-01-01 00:00:00"]

#: The type of the column ``c``, the partitions, and values of it. Values without a partition are
#: ignored.
TABLES = {
    "by_days": (
        "DATE",
        (
            "RANGE (TO_DAYS(c)) (PARTITION a VALUES LESS THAN (TO_DAYS('2019-01-01')),"
            " PARTITION b VALUES LESS THAN (TO_DAYS('2019-02-01')),"
            " PARTITION d VALUES LESS THAN (TO_DAYS('2019-03-01')),"
            " PARTITION e VALUES LESS THAN (TO_DAYS('2020-03-01')),"
            " PARTITION f VALUES LESS THAN MAXVALUE)"
        ),
        DAYS,
    ),
    "by_year": (
        "DATETIME(1)",
        (
            "RANGE (YEAR(c)) (PARTITION a VALUES LESS THAN (2019),"
            " PARTITION b VALUES LESS THAN (2020), PARTITION d VALUES LESS THAN MAXVALUE)"
        ),
        DAYS,
    ),
    "by_day": (
        "DATE",
        (
            "RANGE COLUMNS (c) (PARTITION a VALUES LESS THAN ('2019-01-01'),"
            " PARTITION b VALUES LESS THAN ('2019-03-01'), PARTITION d VALUES LESS THAN (MAXVALUE))"
        ),
        DAYS,
    ),
    "by_number": (
        "INT",
        (
            "RANGE (c) (PARTITION a VALUES LESS THAN (-4), PARTITION b VALUES LESS THAN (7),"
            " PARTITION d VALUES LESS THAN MAXVALUE)"
        ),
        NUMBERS,
    ),
    "by_list": (
        "INT",
        "LIST (c) (PARTITION a VALUES IN (-5, 0, 6), PARTITION b VALUES IN (7))",
        NUMBERS,
    ),
    "by_list_of_days": (
        "DATE",
        (
            "LIST (TO_DAYS(c)) (PARTITION a VALUES IN (TO_DAYS('2019-03-03')),"
            " PARTITION b VALUES IN (TO_DAYS('2020-03-02'), TO_DAYS('2020-03-01')))"
        ),
        DAYS,
    ),
    "by_timestamp": (
        "TIMESTAMP",
        (
            "RANGE (UNIX_TIMESTAMP(c)) (PARTITION a VALUES LESS THAN (1580515200),"
            " PARTITION b VALUES LESS THAN MAXVALUE)"
        ),
        TIMES,
    ),
}


def test_a_part_has_the_rows_of_its_partitions(
    mysql_family: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    make_reader: MakeReader,
) -> None:
    database = fresh_mysql_database(mysql_family)
    with connect_mysql(mysql_family, database) as session, session.cursor() as cursor:
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        for name, (type, by, values) in TABLES.items():
            cursor.execute(
                f"CREATE TABLE {name} (id INT, c {type} NOT NULL, PRIMARY KEY (id, c))"
                f" PARTITION BY {by}"
            )
            for number, value in enumerate(values):
                cursor.execute(f"INSERT IGNORE INTO {name} VALUES ({number}, '{value}')")
        session.commit()
        for name in TABLES:
            table = live_table(session, database, name)
            partitions = table.partitions
            assert partitions is not None, name
            names = partitions.names
            for chosen in [(each,) for each in names] + [(names[0], names[-1])]:
                ranges = [partitions.part(names.index(each)) for each in chosen]
                joined = joined_ranges(each for some in ranges for each in some)
                part = Part("c", joined, partitions.function)
                position = current_position(session)
                found = [
                    row[0]
                    for chunk in make_reader(mysql_family).chunks(
                        table, None, position, rows=3, readers=2, part=part
                    )
                    for row in chunk.rows
                ]
                cursor.execute(f"SELECT id FROM {name} PARTITION ({', '.join(chosen)}) ORDER BY id")
                assert found == [id for (id,) in cursor.fetchall()], (name, chosen)
