"""
The partitions of a table by ranges and lists, from statements and from the catalog's descriptions.
"""

from __future__ import annotations

import pytest

from engine.change import DeletePart, SchemaChange, Truncate, UnloggedPart
from engine.errors import UnloggedChange
from engine.schema import Column, Partitions, Table, TableId, Type
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.effects import Effect, apply_statement
from sources.mysql.ddl.partitions import partitions_of
from sources.mysql.ddl.session_time import SessionTime

RANGES = "(PARTITION a VALUES LESS THAN (3), PARTITION b VALUES LESS THAN (9) COMMENT = 'x, y')"
CREATE = f"CREATE TABLE t (n INT, d DATETIME, x INT) /*!50100 PARTITION BY RANGE (n) {RANGES} */"


def effects(*statements: str) -> list[Effect]:
    """The effects of the last statement."""
    tables: dict[TableId, Table] = {}
    found: list[Effect] = []
    for sql in statements:
        dialect = Dialect(time=SessionTime(1, 0, "+01:00"))
        found = apply_statement(sql, "d", tables, lambda id: True, dialect=dialect)
        for effect in found:
            if isinstance(effect, SchemaChange) and effect.after is not None:
                tables = {effect.after.id: effect.after}
    return found


def removed(*statements: str) -> tuple[str, list[tuple[object, object]]]:
    """The column and the ranges of the rows that the last statement removes."""
    (part,) = [it.part for it in effects(*statements) if isinstance(it, DeletePart)]
    return part.column, list(part.ranges)


def test_the_bounds_follow_from_the_partitions_before_the_statement() -> None:
    assert removed(CREATE, "ALTER TABLE t DROP PARTITION b") == ("n", [(3, 9)])
    assert removed(CREATE, "ALTER TABLE t TRUNCATE PARTITION B, a") == ("n", [(None, 9)])
    first, second = "ALTER TABLE t DROP PARTITION a", "ALTER TABLE t DROP PARTITION b"
    assert removed(CREATE, first, second) == ("n", [(None, 9)])
    moved = "ALTER TABLE t MODIFY x INT FIRST"
    assert removed(CREATE, moved, second) == ("n", [(3, 9)])


def test_partitions_are_added_and_reorganized() -> None:
    add = "ALTER TABLE t ADD PARTITION (PARTITION c VALUES LESS THAN MAXVALUE)"
    drop = "ALTER TABLE t DROP PARTITION c, a"
    assert removed(CREATE, add, drop) == ("n", [(None, 3), (9, None)])
    split = (
        "ALTER TABLE t REORGANIZE PARTITION a, b INTO (PARTITION `b c` VALUES LESS THAN (-5)"
        " ENGINE = InnoDB, PARTITION a VALUES LESS THAN (9))"
    )
    assert removed(CREATE, split, "ALTER TABLE t DROP PARTITION a") == ("n", [(-5, 9)])
    by = (
        "ALTER TABLE t PARTITION BY RANGE COLUMNS (d) (PARTITION a VALUES LESS THAN ('2020-01-01'))"
    )
    bound = "2020-01-01 00:00:00"
    assert removed(CREATE, by, "ALTER TABLE t TRUNCATE PARTITION a") == ("d", [(None, bound)])


def test_lists() -> None:
    create = (
        "CREATE TABLE t (n INT, d DATE) PARTITION BY LIST (n) (PARTITION a VALUES IN (1, 3, 2, -7),"
        " PARTITION b VALUES IN (4) ENGINE = InnoDB, PARTITION c VALUES IN (NULL, 8))"
    )
    assert removed(create, "ALTER TABLE t DROP PARTITION a") == ("n", [(-7, -6), (1, 4)])
    assert removed(create, "ALTER TABLE t TRUNCATE PARTITION a, b") == ("n", [(-7, -6), (1, 5)])
    add = "ALTER TABLE t ADD PARTITION (PARTITION d VALUES IN (5, 6))"
    assert removed(create, add, "ALTER TABLE t DROP PARTITION d, b") == ("n", [(4, 7)])
    move = "ALTER TABLE t REORGANIZE PARTITION a, b INTO (PARTITION a VALUES IN (-7, 1, 2, 3, 4))"
    assert removed(create, move, "ALTER TABLE t DROP PARTITION a") == ("n", [(-7, -6), (1, 5)])
    with pytest.raises(UnloggedChange):
        effects(create, "ALTER TABLE t DROP PARTITION b, c")
    drop = "ALTER TABLE t DROP PARTITION a"
    for by, expected in (
        ("(YEAR(d)) (PARTITION a VALUES IN (2020))", ("2020-01-01", "2021-01-01")),
        ("COLUMNS (d) (PARTITION a VALUES IN ('2020-02-29'))", ("2020-02-29", "2020-03-01")),
        ("(TO_DAYS(d)) (PARTITION a VALUES IN (737821))", ("2020-02-01", "2020-02-02")),
        ("COLUMNS (n) (PARTITION a VALUES IN (5))", (5, 6)),
    ):
        column = "n" if isinstance(expected[0], int) else "d"
        again = f"ALTER TABLE t PARTITION BY LIST {by}"
        assert removed(create, again, drop) == (column, [expected])


def test_subpartitions_do_not_matter() -> None:
    create = (
        "CREATE TABLE t (n INT, x INT) PARTITION BY RANGE (n) SUBPARTITION BY LINEAR HASH (ABS(x))"
        " SUBPARTITIONS 2 (PARTITION a VALUES LESS THAN (3), PARTITION b VALUES LESS THAN (9)"
        " (SUBPARTITION b0 ENGINE = InnoDB, SUBPARTITION b1))"
    )
    assert removed(create, "ALTER TABLE t DROP PARTITION b") == ("n", [(3, 9)])
    add = "ALTER TABLE t ADD PARTITION (PARTITION c VALUES LESS THAN (20) (SUBPARTITION s))"
    assert removed(create, add, "ALTER TABLE t DROP PARTITION c") == ("n", [(9, 20)])
    with pytest.raises(UnloggedChange):
        effects(create, "ALTER TABLE t TRUNCATE PARTITION b0")


def test_all_partitions_are_emptied_whatever_they_are() -> None:
    statement = "ALTER TABLE t TRUNCATE PARTITION ALL"
    for create in (CREATE, "CREATE TABLE t (n INT) PARTITION BY HASH (n) PARTITIONS 4"):
        assert [type(it) for it in effects(create, statement)] == [Truncate, SchemaChange]


@pytest.mark.parametrize(
    "before",
    [
        "ALTER TABLE t REMOVE PARTITIONING",
        "ALTER TABLE t PARTITION BY HASH (n) PARTITIONS 3",
        "ALTER TABLE t COALESCE PARTITION 1",
        "ALTER TABLE t ADD PARTITION IF NOT EXISTS (PARTITION a VALUES LESS THAN (20))",
        "ALTER TABLE t ADD PARTITION (PARTITION c VALUES LESS THAN (10 + 5))",
        "ALTER TABLE t PARTITION BY RANGE (n DIV 2) (PARTITION a VALUES LESS THAN (3))",
        "ALTER TABLE t PARTITION BY LIST (n) (PARTITION a VALUES IN (3, NULL))",
        "ALTER TABLE t PARTITION BY LIST (n) (PARTITION a DEFAULT, PARTITION b VALUES IN (3))",
        "ALTER TABLE t PARTITION BY LIST COLUMNS (d) (PARTITION a VALUES IN ('2020-01-01'))",
        "ALTER TABLE t PARTITION BY LIST (n + 1) (PARTITION a VALUES IN (3))",
        "ALTER TABLE t CHANGE n m INT",
        "ALTER TABLE t MODIFY n BIGINT",
        "ALTER TABLE t CHANGE n x INT, CHANGE x n INT",
    ],
)
def test_what_is_not_read_with_certainty_is_unknown(before: str) -> None:
    with pytest.raises(UnloggedChange, match="drops a partition with its rows"):
        effects(CREATE, before, "ALTER TABLE t DROP PARTITION a")


def test_an_exchanged_partition_is_a_part_with_other_rows() -> None:
    for end in ("d2.u", "u WITH VALIDATION"):
        change, schema = effects(CREATE, f"ALTER TABLE t EXCHANGE PARTITION b WITH TABLE {end}")
        assert isinstance(change, UnloggedPart)
        assert (change.part.column, change.part.ranges) == ("n", ((3, 9),))
        assert change.reason == (
            "ALTER TABLE exchanges a partition's rows, which the log does not show"
        )
        assert isinstance(schema, SchemaChange)
        assert schema.after is not None
        assert schema.after.partitions == change.table.partitions


def test_unknown_names_and_other_verbs_are_not_followed() -> None:
    for statement in (
        "DROP PARTITION IF EXISTS nowhere",
        "EXCHANGE PARTITION nowhere WITH TABLE u",
        "EXCHANGE PARTITION a WITH TABLE u WITHOUT VALIDATION",
        "DISCARD PARTITION a TABLESPACE",
    ):
        with pytest.raises(UnloggedChange):
            effects(CREATE, f"ALTER TABLE t {statement}")


@pytest.mark.parametrize(
    ("method", "expression", "source_type", "description", "bound"),
    [
        ("RANGE", "`c`", "int", "-3", -3),
        ("RANGE COLUMNS", "`c`", "bigint unsigned", "18446744073709551615", (1 << 64) - 1),
        ("RANGE", "to_days(`c`)", "date", "737821", "2020-02-01"),
        ("RANGE", "to_days(`c`)", "datetime(2)", "366", "0001-01-01 00:00:00.00"),
        ("RANGE", "year(`c`)", "datetime", "2020", "2020-01-01 00:00:00"),
        ("RANGE", "unix_timestamp(`c`)", "timestamp", "1600000000", "2020-09-13 12:26:40"),
        ("RANGE COLUMNS", "`c`", "date", "'2020-01-01'", "2020-01-01"),
        ("RANGE COLUMNS", "`c`", "datetime(1)", "'2020-01-01 01:02:03'", "2020-01-01 01:02:03.0"),
        ("RANGE COLUMNS", "`c`", "varchar(9)", "'x'", "unknown"),
        ("RANGE COLUMNS", "`c`,`e`", "int", "1,2", "unknown"),
        ("RANGE", "`c` DIV 10", "int", "3", "unknown"),
        ("RANGE", "to_days(`c`)", "date", "0", "unknown"),
        ("RANGE", "month(`c`)", "date", "3", "unknown"),
        ("RANGE", "unix_timestamp(`c`)", "timestamp(3)", "1600000000.5", "unknown"),
        ("LIST", "`c`", "int", "1,2", (1, 3)),
        ("LIST COLUMNS", "`c`", "date", "'2020-12-31'", ("2020-12-31", "2021-01-01")),
        ("LIST", "`c`", "int", "1,NULL", None),
        ("LIST", "`c`", "int", "DEFAULT", None),
        ("LIST", "`c`", "int", "x", "unknown"),
        ("SYSTEM_TIME", "", "int", "CURRENT", "unknown"),
    ],
)
def test_the_descriptions_of_the_catalog(
    method: str, expression: str, source_type: str, description: str, bound: object
) -> None:
    scale = int(source_type[-2]) if "(" in source_type and "var" not in source_type else 0
    column = Column("c", Type("text", scale=scale), source_type)
    found = partitions_of([column], method, expression, [("p", description)])
    if bound == "unknown":
        assert found is None
    else:
        assert isinstance(found, Partitions)
        if method.startswith("LIST"):
            assert found.lists == ((bound,) if bound else (),)
        else:
            assert found.bounds == (bound,)
