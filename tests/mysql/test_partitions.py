"""
The partitions of a table by ranges, from statements and from the catalog's descriptions.
"""

from __future__ import annotations

import pytest

from engine.change import DeleteRange, SchemaChange
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


def ranges(*statements: str) -> list[tuple[int, object, object]]:
    """The ordinal and the bounds of each range that the last statement removes."""
    found = effects(*statements)
    return [(it.ordinal, it.lower, it.upper) for it in found if isinstance(it, DeleteRange)]


def test_the_bounds_follow_from_the_partitions_before_the_statement() -> None:
    assert ranges(CREATE, "ALTER TABLE t DROP PARTITION b") == [(0, 3, 9)]
    assert ranges(CREATE, "ALTER TABLE t TRUNCATE PARTITION B, a") == [(0, None, 3), (0, 3, 9)]
    first, second = "ALTER TABLE t DROP PARTITION a", "ALTER TABLE t DROP PARTITION b"
    assert ranges(CREATE, first, second) == [(0, None, 9)]
    moved = "ALTER TABLE t MODIFY x INT FIRST"
    assert ranges(CREATE, moved, second) == [(1, 3, 9)]


def test_partitions_are_added_and_reorganized() -> None:
    add = "ALTER TABLE t ADD PARTITION (PARTITION c VALUES LESS THAN MAXVALUE)"
    assert ranges(CREATE, add, "ALTER TABLE t DROP PARTITION c") == [(0, 9, None)]
    split = (
        "ALTER TABLE t REORGANIZE PARTITION a, b INTO (PARTITION `b c` VALUES LESS THAN (-5)"
        " ENGINE = InnoDB, PARTITION a VALUES LESS THAN (9))"
    )
    assert ranges(CREATE, split, "ALTER TABLE t DROP PARTITION a") == [(0, -5, 9)]
    by = (
        "ALTER TABLE t PARTITION BY RANGE COLUMNS (d) (PARTITION a VALUES LESS THAN ('2020-01-01'))"
    )
    bound = "2020-01-01 00:00:00"
    assert ranges(CREATE, by, "ALTER TABLE t TRUNCATE PARTITION a") == [(1, None, bound)]


@pytest.mark.parametrize(
    "before",
    [
        "ALTER TABLE t REMOVE PARTITIONING",
        "ALTER TABLE t PARTITION BY HASH (n) PARTITIONS 3",
        "ALTER TABLE t COALESCE PARTITION 1",
        "ALTER TABLE t ADD PARTITION IF NOT EXISTS (PARTITION a VALUES LESS THAN (20))",
        "ALTER TABLE t ADD PARTITION (PARTITION c VALUES LESS THAN (10 + 5))",
        "ALTER TABLE t ADD PARTITION (PARTITION c VALUES LESS THAN (20) (SUBPARTITION s))",
        "ALTER TABLE t PARTITION BY RANGE (n DIV 2) (PARTITION a VALUES LESS THAN (3))",
        "ALTER TABLE t PARTITION BY LIST (n) (PARTITION a VALUES IN (3))",
        "ALTER TABLE t CHANGE n m INT",
        "ALTER TABLE t MODIFY n BIGINT",
        "ALTER TABLE t CHANGE n x INT, CHANGE x n INT",
    ],
)
def test_what_is_not_read_with_certainty_is_unknown(before: str) -> None:
    with pytest.raises(UnloggedChange, match="drops a partition with its rows"):
        effects(CREATE, before, "ALTER TABLE t DROP PARTITION a")


def test_unknown_names_and_other_verbs_are_not_followed() -> None:
    for statement in (
        "DROP PARTITION IF EXISTS nowhere",
        "TRUNCATE PARTITION ALL",
        "EXCHANGE PARTITION a WITH TABLE u",
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
        ("LIST", "`c`", "int", "1,2", "unknown"),
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
        assert found.bounds == (bound,)
