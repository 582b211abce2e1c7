"""
What a comparison tries again hides no fault: scripted sums, and rows in memory. The table of
retries in docs/verify.md names them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from itertools import chain

import msgspec
import pytest

from engine.contract import StoredText
from engine.errors import SourceError
from engine.schema import Column, Table, TableId, Type
from engine.toolkit.checksums import Checksum, KeyRange
from engine.verify.comparison import verify
from engine.verify.multisets import Deviation, Multiset, confirm_multiset
from engine.verify.parts import differing_parts
from engine.verify.reader import AsyncReader, RangeRows, TextRow, row_digest
from engine.verify.report import Difference, Key, TableReport
from engine.verify.table_comparison import MANY_DIFFER
from tests.engine.test_multisets import reading
from tests.support.passing import at_once, waiter

ID = Column("id", Type("int32"), "int", nullable=False)
VALUE = Column("value", Type("int32"), "int")
KEYED = Table(TableId("shop", "items"), (ID, VALUE), key=(0,))
KEYLESS = msgspec.structs.replace(KEYED, key=())
Sums = dict[str, Checksum]


def summed(rows: Collection[TextRow]) -> Checksum:
    """The checksum of rows."""
    ones = (Checksum.of_text(1, row_digest(row).hex()) for row in rows)
    return reduce(Checksum.plus, ones, Checksum())


class Side:
    """A database with a table whose rows are in parts, and in the order of their keys.

    ``sums``: what it returns as the checksums of all parts at each call; None, and then always:
    those of its rows. ``refused``: the first statement of this name is refused.
    """

    def __init__(
        self,
        parts: dict[str, list[TextRow]],
        sums: Sequence[Sums | None] = (),
        refused: str = "",
    ) -> None:
        self._parts, self._sums, self._refused = parts, list(sums), refused
        self._rows = sorted(chain(*parts.values()), key=lambda row: int(row[0] or 0))

    def _execute(self, name: str) -> None:
        if name == self._refused:
            raise SourceError("the statement is refused")

    def _range(self, range: KeyRange) -> list[TextRow]:
        after, upto = (None if key is None else int(key[0] or 0) for key in range)
        return [
            row
            for row in self._rows
            if (after is None or int(row[0] or 0) > after)
            and (upto is None or int(row[0] or 0) <= upto)
        ]

    def why_not_summed(self, table: Table) -> str:
        return ""

    def longest_text(self) -> int:
        return 1 << 20

    def sum_range(self, table: Table, range: KeyRange, nulled: Collection[int] = ()) -> Checksum:
        if range.upto is None:
            self._execute("the last range")
        return summed(self._range(range))

    def count_zeros(self, table: Table, range: KeyRange, columns: Collection[int]) -> list[int]:
        return []

    def boundary(self, table: Table, range: KeyRange, rows: int) -> Key | None:
        found = self._range(range)
        return found[rows - 1][:1] if len(found) >= rows else None

    def range_rows(self, table: Table, range: KeyRange) -> RangeRows:
        return self._range(range), None

    def sum_parts(self, table: Table, nulled: Collection[int] = ()) -> Sums:
        shown = self._sums.pop(0) if self._sums else None
        return (
            {part: summed(rows) for part, rows in self._parts.items()} if shown is None else shown
        )

    def part_rows(
        self, table: Table, parts: Collection[str], nulled: Collection[int] = ()
    ) -> Iterator[list[TextRow]]:
        self._execute("the rows of parts")
        yield [row for part in parts for row in self._parts.get(part, ())]

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[TextRow]:
        rows = self._range(KeyRange(after))[:limit]
        return [row[:1] for row in rows] if keys_only else rows

    def by_keys(
        self, table: Table, keys: Sequence[Key], *, keys_only: bool = False
    ) -> list[TextRow]:
        return [row[:1] if keys_only else row for row in self._rows if row[:1] in keys]

    def scan(self, table: Table) -> Iterator[list[TextRow]]:
        yield self._rows

    def count(self, table: Table) -> int:
        return len(self._rows)

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        return (None,) * len(table.columns)

    def close(self) -> None:
        """Nothing to free."""


def compare(table: Table, source: Side, target: Side) -> TableReport:
    comparison = verify(
        [table], source, target, source_position=lambda: "here", passed=at_once, chunk_rows=2
    )
    return asyncio.run(comparison).tables[0]


def rows(*ids: int, value: str = "1") -> list[TextRow]:
    return [(str(id), value) for id in ids]


def parts_that_differ(source: Sequence[Sums], target: Sequence[Sums]) -> tuple[str, ...]:
    sides = AsyncReader(Side({}, source)), AsyncReader(Side({}, target))
    return asyncio.run(differing_parts(KEYLESS, *sides)).names


ONE, OTHER = Checksum(1, 1, 1), Checksum(1, 2, 2)


def test_a_part_has_to_be_equal_to_the_source_before_and_after() -> None:
    """GIVEN a target that lacks a row which equals others WHEN the source gets or loses such a row
    THEN one of its sums is the target's, and the part differs all the same."""
    assert parts_that_differ([{"a": ONE}, {"a": OTHER}], [{"a": ONE}]) == ("a",)
    assert parts_that_differ([{"a": OTHER}, {"a": ONE}], [{"a": ONE}]) == ("a",)
    assert parts_that_differ([{"a": ONE}, {"a": ONE}], [{}]) == ("a",)
    assert parts_that_differ([{}, {}], [{"a": ONE}]) == ("a",)
    assert parts_that_differ([{"a": ONE}, {"a": ONE}], [{"a": ONE}]) == ()


def test_no_part_that_differs_each_time_is_forgotten() -> None:
    """GIVEN so many parts that differ that the table is summed again WHEN fewer of them differ then
    THEN all of these are left, and no part that was equal once."""
    names = "abcdefghij"
    before = {name: Checksum(1000, 1, 1) for name in names}
    moved = {name: Checksum(1000, 2, 2) for name in names}
    some = {**before, "a": moved["a"], "i": moved["i"], "j": moved["j"]}
    assert parts_that_differ([before] * 4, [moved, some]) == ("a", "i", "j")
    nine = {**moved, "j": before["j"]}
    assert parts_that_differ([before] * 4, [nine, some]) == ("a", "i")
    # The second time the source changes during the sums, the third time nothing does.
    third = [*[before] * 3, moved, before, before]
    assert parts_that_differ(third, [moved, before, some]) == ("a", "i", "j")


def test_each_part_that_differs_is_read() -> None:
    source = Side({"a": rows(1), "b": rows(2), "c": rows(3), "d": rows(4)})
    target = Side({"a": [], "b": rows(2), "c": rows(3, 5), "d": rows(4, value="2")})
    report = compare(KEYLESS, source, target)
    assert (report.missing, report.extra, report.read) == (2, 2, 3)
    assert (report.method, report.rows, report.hot) == ("checksums", 4, 0)


def test_parts_that_were_read_are_among_those_that_are_read_again() -> None:
    """GIVEN a row that is missing WHEN other parts differ by the time it is confirmed THEN it is
    read again in its own."""
    source = Side({"a": rows(1), "b": rows(2)}, [None, None, {"b": ONE}, {"b": ONE}])
    target = Side({"a": [], "b": rows(2)}, [None, {"b": OTHER}])
    report = compare(KEYLESS, source, target)
    assert (report.missing, report.extra, report.hot) == (1, 0, 0)


def test_a_number_that_moves_while_it_is_confirmed_is_not_dismissed() -> None:
    """GIVEN a missing row WHEN the source gets an equal one during the last recheck THEN the row is
    read again, and is missing; at the deadline it is left open."""
    found = Deviation(Multiset({b"a": 1}), Multiset())
    target = reading({b"a": 1})
    moving: list[dict[bytes, int]] = [{b"a": 1}, {b"a": 2}, {b"a": 2}]
    now = asyncio.run(confirm_multiset(found, reading(*moving), target, waiter()))
    assert now == found
    now = asyncio.run(confirm_multiset(found, reading(*moving), target, waiter(seconds=0.0)))
    assert now == Deviation(Multiset(), Multiset(), 1)


FAULTS = rows(*range(1, 9)), [*rows(1), *rows(2, value="2"), *rows(*range(4, 8)), *rows(8, 9)]


@pytest.mark.parametrize("refused", ["source", "target"])
def test_after_a_refused_statement_every_row_is_compared_once(refused: str) -> None:
    """GIVEN a changed, a missing and an extra row WHEN the checksum of the last range is refused
    THEN the rows that were found before are found again, and counted once."""
    sides = [
        Side({"a": it}, refused="the last range" if name == refused else "")
        for name, it in zip(("source", "target"), FAULTS, strict=True)
    ]
    report = compare(KEYED, *sides)
    assert (report.method, report.reason) == ("rows", "the statement is refused")
    assert sorted(report.differences, key=lambda it: it.key) == [
        Difference("changed", ("2",), ("value",)),
        Difference("missing", ("3",)),
        Difference("extra", ("9",)),
    ]
    assert (report.differing, report.missing, report.extra) == (1, 1, 1)
    assert (report.rows, report.target_rows, report.read, report.hot) == (8, 8, 8, 0)


@pytest.mark.parametrize("refused", ["source", "target"])
def test_after_a_refused_statement_every_row_of_a_keyless_table_is_compared(refused: str) -> None:
    sides = [
        Side({"a": it}, refused="the rows of parts" if name == refused else "")
        for name, it in zip(("source", "target"), FAULTS, strict=True)
    ]
    report = compare(KEYLESS, *sides)
    assert (report.method, report.reason) == ("rows", "the statement is refused")
    assert (report.missing, report.extra, report.rows, report.hot) == (2, 2, 8, 0)


MANY = {"a": Checksum(600, 1, 1)}


def test_where_many_rows_differ_every_row_is_compared_once() -> None:
    text = msgspec.structs.replace(ID, type=Type("text"))
    table = msgspec.structs.replace(KEYED, columns=(text, VALUE))
    report = compare(table, Side({"a": FAULTS[0]}, [MANY]), Side({"a": FAULTS[1]}, [{}]))
    assert (report.method, report.reason) == ("rows", MANY_DIFFER)
    assert (report.differing, report.missing, report.extra) == (1, 1, 1)
    assert (report.rows, report.target_rows, report.hot) == (8, 8, 0)


@pytest.mark.parametrize("parts_read", [False, True])
def test_where_many_parts_of_a_keyless_table_differ_every_row_is_compared_once(
    parts_read: bool,
) -> None:
    """At first, or when the rows of a part have been found to differ."""
    before, between = ([None, None], [None]) if parts_read else ([], [])
    source = Side({"a": FAULTS[0]}, [*before, *[MANY] * 6])
    target = Side({"a": FAULTS[1]}, [*between, *[{}] * 3])
    report = compare(KEYLESS, source, target)
    assert (report.method, report.reason) == ("rows", MANY_DIFFER)
    found = (report.differing, report.missing, report.extra, report.rows, report.target_rows)
    assert (*found, report.hot) == (0, 2, 2, 8, 8, 0)
