"""The source's rows as the target has them, for a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from engine.change import SchemaChange
from engine.contract import RowReader, StoredText
from engine.mapping.changes import Mapping
from engine.mapping.reader import MappedReader, SharesReader, with_sources
from engine.schema import Table, TableId
from engine.settings.mapping import TableRules
from tests.support.memory_pipeline import ID, NAME

Key = tuple[str | None, ...]

SHOPS = [Table(TableId(name, "orders"), (ID, NAME), key=(0,)) for name in ("a", "b", "c")]
ROWS: list[Key] = [("1", "x"), ("2", "y"), ("3", "z")]
RULES = {"*.orders": TableRules(to="all.orders", merge={"shop": "schema"}, where="id <> 2")}


class Rows:
    """A reader of tables that all have the same rows. The key has the first ``key`` columns."""

    def __init__(self, rows: Sequence[Key] = ROWS, key: int = 1) -> None:
        self._rows, self._key = list(rows), key

    def _found(self, rows: list[Key], keys_only: bool) -> list[Key]:
        return [row[: self._key] for row in rows] if keys_only else rows

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[Key]:
        rows = [row for row in self._rows if after is None or str(row[: self._key]) > str(after)]
        return self._found(rows[:limit], keys_only)

    def by_keys(self, table: Table, keys: Sequence[Key], *, keys_only: bool = False) -> list[Key]:
        return self._found([row for row in self._rows if row[: self._key] in keys], keys_only)

    def scan(self, table: Table) -> Iterator[list[Key]]:
        yield self._rows

    def count(self, table: Table) -> int:
        return len(self._rows)

    def size(self, table: Table) -> int:
        return len(self._rows)

    def sample(self, table: Table, share: float) -> list[Key]:
        return self._found(self._rows[: round(share * len(self._rows))], keys_only=True)

    def read_policies(self, table: Table) -> Sequence[str]:
        return [f"{table.id.schema}.{name}" for name in table.names]

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        return (None,) * len(table.columns)

    def close(self) -> None:
        """Nothing to free."""


def read(reader: RowReader, table: Table, after: Key | None) -> list[Key]:
    """All keys of the table after a key, chunk by chunk."""
    found: list[Key] = []
    while keys := reader.chunk(table, after, 2, keys_only=True):
        found += keys
        after = keys[-1]
    return found


def merged(*sources: Table) -> tuple[MappedReader, Table]:
    rules = {f"{table.id.schema}.orders": RULES["*.orders"] for table in sources}
    mapping = Mapping(rules)
    mapping.targets([SchemaChange("", None, table) for table in sources])
    return MappedReader(Rows(), mapping), mapping.now(sources[0])


def test_the_rows_of_merged_tables_follow_each_other() -> None:
    reader, table = merged(*SHOPS)
    every = [(shop, row) for shop in "abc" for row in "13"]
    assert read(reader, table, None) == every
    assert read(reader, table, ("b", "1")) == every[3:]
    assert reader.by_keys(table, [("b", "1"), ("b", "2"), ("c", "3")]) == [
        ("b", "1", "x"),
        ("c", "3", "z"),
    ]
    assert reader.count(table) == len(every)


@pytest.mark.parametrize("left", SHOPS)
def test_the_rows_after_a_key_of_a_table_that_has_left(left: Table) -> None:
    """GIVEN merged tables of which one has left WHEN the rows after one of its keys are read THEN
    they are those of the next tables."""
    reader, table = merged(*(shop for shop in SHOPS if shop is not left))
    share = left.id.schema
    after = [(shop, row) for shop in "abc" if shop > share for row in "13"]
    assert read(reader, table, (share, "2")) == after


def test_rows_of_a_table_that_is_not_followed_any_more_are_passed_over() -> None:
    """GIVEN merged tables of which one is not followed WHEN the target is read THEN the rows of the
    others are shown, and those that no table has."""
    _, table = merged(*SHOPS)
    rows: list[Key] = [(shop, *row) for shop in "abcx" for row in ROWS]
    kept = with_sources(table, {SHOPS[0].id, SHOPS[2].id})
    reader = SharesReader(Rows(rows, key=2), {kept: {"b"}})
    assert read(reader, table, None) == [row[:2] for row in rows]
    shown = [row for row in rows if row[0] != "b"]
    assert read(reader, kept, None) == [row[:2] for row in shown]
    assert [row for some in reader.scan(kept) for row in some] == shown
    assert (reader.count(kept), reader.count(SHOPS[0])) == (len(shown), len(rows))
    assert reader.sample(kept, 1.0) == [row[:2] for row in shown]
    assert reader.by_keys(kept, [("a", "1"), ("b", "1")]) == [("a", "1", "x")]
    assert reader.by_keys(kept, [("x", "1"), ("b", "1")], keys_only=True) == [("x", "1")]


def test_rows_of_a_table_that_is_merged_meanwhile_are_passed_over() -> None:
    """GIVEN two merged tables that are compared WHEN the pipeline starts to follow a third one THEN
    its rows are left out from then on."""
    _, table = merged(*SHOPS[:2])
    _, then = merged(*SHOPS)
    rows: list[Key] = [(shop, "1", "x") for shop in "abc"]
    reader = SharesReader(Rows(rows, key=2), {table: set()})
    assert reader.by_keys(table, [("c", "1")]) == [("c", "1", "x")]
    reader.learn([SHOPS[0], then])
    assert reader.by_keys(table, [("c", "1")]) == []
    assert read(reader, table, None) == [("a", "1"), ("b", "1")]


def test_rows_are_drawn_as_the_target_has_them() -> None:
    reader, table = merged(*SHOPS)
    assert reader.size(table) == 9
    assert reader.sample(table, 2 / 3) == [("a", "1"), ("b", "1"), ("c", "1")]
    assert reader.sample(table, 1.0) == [(shop, row) for shop in "abc" for row in "13"]
    left = with_sources(table, {SHOPS[0].id})
    target = SharesReader(Rows([("a", "1", "x"), ("b", "1", "x")], key=2), {left: {"b", "c"}})
    assert (target.size(left), target.sample(left, 1.0)) == (2, [("a", "1")])
    plain = Rows()
    assert MappedReader(plain, Mapping({})).sample(SHOPS[0], 1 / 3) == [("1",)]


def test_columns_that_stay_as_they_are_keep_the_policy_by_which_they_are_read() -> None:
    reader, table = merged(SHOPS[0])
    assert reader.read_policies(table) == ["", "a.id", "a.name"]
    assert MappedReader(Rows(), Mapping({})).read_policies(SHOPS[1]) == ["b.id", "b.name"]
