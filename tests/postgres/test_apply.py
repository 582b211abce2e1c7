"""
Net changes are applied exactly: swaps, key changes, keyless tables, partial images and drift, each
with few rows and with many.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.change import CaughtUp, DeleteRange, KeyRange, Row, Rows, SchemaChange, Truncate
from engine.errors import ApplyError
from engine.schema import Column, Table, TableId, Type
from tests.conftest import AnyServer
from tests.support.histories import KEYED, KEYLESS, History, number, steps, text
from tests.support.targets import Target, delete, insert, opened_database, read, update

#: More rows than are applied one by one.
MANY = 200


@pytest.fixture(scope="module")
def target(postgres_family: AnyServer) -> Iterator[Target]:
    """One database for the module. Each test creates its tables."""
    with opened_database(postgres_family) as target:
        yield target


@pytest.fixture
def things(target: Target) -> Iterator[Table]:
    target.create(KEYED)
    yield KEYED
    target.do(SchemaChange("", KEYED, None))


@pytest.fixture
def ledger(target: Target) -> Iterator[Table]:
    target.create(KEYLESS)
    yield KEYLESS
    target.do(SchemaChange("", KEYLESS, None))


def row(key: int, code: int | None = None, a: str = "", b: str = "") -> Row:
    return (key, code, a, b)


def filler(count: int = MANY) -> list[Row]:
    """Rows that make a batch large and that the test does not use otherwise."""
    return [row(1000 + n, 1000 + n) for n in range(count)]


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
def test_swaps_of_unique_values_and_chains_of_keys(
    target: Target, things: Table, many: bool
) -> None:
    more = filler() if many else []
    target.do(insert(things, row(1, 10), row(2, 20), row(3, 30), *more))
    applied = target.do(
        update(things, (row(1, 10), row(1, None)), (row(2, 20), row(2, 10))),
        update(things, (row(1, None), row(1, 20))),
        update(things, (row(3, 30), row(4, 30)), (row(2, 10), row(3, 10))),
        update(things, (row(1, 20), row(2, 20))),
        *([update(things, *((old, (*old[:2], "x", "y")) for old in more))] if many else []),
    )
    expected = [row(2, 20), row(3, 10), row(4, 30), *((*old[:2], "x", "y") for old in more)]
    assert target.rows(things) == sorted(expected, key=repr)
    assert not applied.drift


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
def test_drift_is_counted_and_repaired(target: Target, things: Table, many: bool) -> None:
    more = filler() if many else []
    target.do(insert(things, row(1), *more))
    target.query("DELETE FROM shop.things WHERE id = 1")
    target.query("INSERT INTO shop.things VALUES (2, 2, 'old')")
    applied = target.do(
        update(things, (row(1), row(1, a="x")), *((old, (*old[:2], "x", "")) for old in more))
    )
    assert applied.drift == {things.id: 1}
    new = [row(2, a="new"), *(row(5000 + n) for n in range(MANY if many else 1))]
    assert target.do(insert(things, *new)).drift == {things.id: 1}
    gone = [row(77), *more]
    assert target.do(delete(things, *gone)).drift == {things.id: 1}
    assert target.rows(things) == sorted([row(1, a="x"), *new], key=repr)


def test_a_unique_violation_names_table_and_constraint(target: Target, things: Table) -> None:
    target.query("INSERT INTO shop.things VALUES (9, 5, 'secret')")
    for rows in ([row(1, 5)], [row(1, 5), *filler()]):
        error = target.refuses(insert(things, *rows))
        assert isinstance(error, ApplyError)
        assert "shop.things" in str(error)
        assert "UniqueViolation" in str(error)
        assert "secret" not in str(error)
        assert error.hint


@pytest.mark.parametrize("count", [1, MANY], ids=["few", "many"])
def test_a_table_in_backfill_accepts_existing_and_missing_rows(
    target: Target, things: Table, count: int
) -> None:
    rows = [row(n, n) for n in range(count)]
    in_backfill = {things.id}
    target.do(insert(things, *rows), in_backfill=in_backfill)
    applied = target.do(
        insert(things, *((*old[:2], "again", "") for old in rows)),
        update(things, *((row(5000 + n), row(5000 + n, a="new")) for n in range(count))),
        delete(things, *(row(9000 + n) for n in range(count))),
        in_backfill=in_backfill,
    )
    assert applied.drift == {}
    expected = [row(n, n, "again") for n in range(count)]
    expected += [row(5000 + n, a="new") for n in range(count)]
    assert target.rows(things) == sorted(expected, key=repr)


def test_chunks_replace_existing_rows(target: Target, things: Table) -> None:
    target.do(read(things, *(row(n) for n in range(MANY))), in_backfill={things.id})
    overlapping = [row(n, a="new") for n in range(100, 100 + MANY)]
    for chunk in (overlapping[:120], overlapping[120:], overlapping):
        applied = target.do(read(things, *chunk))
        assert applied.drift == {}
    assert target.rows(things) == sorted([*(row(n) for n in range(100)), *overlapping], key=repr)


@pytest.mark.parametrize("count", [1, MANY], ids=["few", "many"])
def test_partial_images(target: Target, things: Table, count: int) -> None:
    def partial(mask: int, *pairs: tuple[int, Row]) -> Rows:
        before = [(key, None, None, None) for key, _ in pairs]
        return Rows(things, "update", before, [new for _, new in pairs], 1, mask)

    numbers = range(count)
    target.do(insert(things, *(row(n, n, "a", "b") for n in numbers)))
    applied = target.do(
        partial(0b0100, *((n, (n, None, "x", None)) for n in numbers)),
        partial(0b1000, *((n, (n, None, None, None)) for n in numbers)),
    )
    assert applied.drift == {}
    assert target.rows(things) == sorted(((n, n, "x", None) for n in numbers), key=repr)
    shifted = partial(0b0011, *((n, (n + 1, n + 1, None, None)) for n in reversed(numbers)))
    assert target.do(shifted).drift == {}
    assert target.rows(things) == sorted(((n + 1, n + 1, "x", None) for n in numbers), key=repr)
    absent = partial(0b0100, *((n + 7000, (n + 7000, None, "y", None)) for n in numbers))
    assert target.apply(absent).drift == {things.id: count}
    assert target.apply(absent, in_backfill={things.id}).drift == {}
    target.commit()
    assert len(target.rows(things)) == count


def test_a_partial_insert_gets_the_source_s_default(target: Target) -> None:
    table = Table(
        TableId("shop", "defaults"),
        (number("id"), replace(text("a"), default="'it''s'"), text("b")),
        key=(0,),
    )
    target.create(table)
    target.do(insert(table, (1, None, "x"), present=0b101))
    many = [(n, None, "x") for n in range(2, MANY)]
    target.do(insert(table, *many, present=0b101))
    assert {row[1:] for row in target.rows(table)} == {("it's", "x")}
    target.do(SchemaChange("", table, None))


def test_a_keyless_table_changes_one_row_for_each_change(target: Target, ledger: Table) -> None:
    target.do(insert(ledger, *[(1, "x")] * 4, (None, None), (None, None), (2, None)))
    applied = target.do(
        delete(ledger, (1, "x"), (None, None)), update(ledger, ((1, "x"), (1, None)))
    )
    assert not applied.drift
    rest = [(1, "x")] * 2 + [(None, None), (2, None), (1, None)]
    assert target.rows(ledger) == sorted(rest, key=repr)
    assert target.do(delete(ledger, *[(1, "x")] * 3, (2, "none"))).drift == {ledger.id: 2}
    assert target.rows(ledger) == sorted([(None, None), (2, None), (1, None)], key=repr)


def test_a_large_keyless_table_is_matched_by_hashing(target: Target, ledger: Table) -> None:
    rows = [(n % 5000, f"text {n % 7}") for n in range(20_000)]
    target.do(insert(ledger, *rows))
    assert not target.do(delete(ledger, *rows[:15_000])).drift
    assert target.rows(ledger) == sorted(rows[15_000:], key=repr)


def test_a_keyless_table_of_types_that_are_hard_to_compare(target: Target) -> None:
    table = Table(
        TableId("shop", "odd"),
        (
            Column("j", Type("json"), "json"),
            Column("f", Type("float64"), "double", nullable=False),
            Column("d", Type("date"), "date", nullable=False),
            Column("b", Type("binary"), "blob"),
            Column("a", Type("array", element=Type("int32")), "int[]"),
        ),
    )
    target.create(table)
    first: Row = ('{"a": 1}', 0.1, "0000-00-00", b"\0", [1, 2])
    second: Row = (None, 0.1, "2020-01-01", None, None)
    applied = target.do(insert(table, first, first, second))
    assert applied.replaced == {(table.id, "d", "zero_date"): 2}
    assert not target.do(delete(table, first, second)).drift
    assert len(target.rows(table)) == 1
    target.do(SchemaChange("", table, None))


@pytest.mark.parametrize("nullable", [False, True])
def test_a_keyless_table_matches_minus_zero_with_zero(target: Target, nullable: bool) -> None:
    """A source's client reads -0 as 0; its log keeps them apart."""
    columns = (
        Column("f", Type("float64"), "double", nullable),
        Column("g", Type("float32"), "float", nullable),
    )
    table = Table(TableId("shop", "zeros"), columns)
    target.create(table)
    target.do(read(table, *[(0.0, 0.0)] * 3, (-0.0, -0.0), (0.1, 0.10000000149011612)))
    gone = [(-0.0, -0.0), (0.0, -0.0), (-0.0, -0.0), (0.1, 0.10000000149011612)]
    assert not target.do(delete(table, *gone)).drift
    assert len(target.rows(table)) == 1
    target.do(SchemaChange("", table, None))


def test_values_that_postgresql_cannot_store_are_replaced_and_counted(target: Target) -> None:
    table = Table(
        TableId("shop", "zero"),
        (number("id"), Column("d", Type("datetime"), "datetime", False), text("t")),
        key=(0,),
    )
    target.create(table)
    bad = "0000-00-00 00:00:00"
    for rows in ([(1, bad, "a\0b")], [(n, bad, "c\0") for n in range(2, MANY)]):
        applied = target.do(insert(table, *rows))
        assert applied.replaced == {
            (table.id, "d", "zero_date"): len(rows),
            (table.id, "t", "nul_byte"): len(rows),
        }
    again = [(n, bad, "d\0") for n in range(2, MANY)]
    applied = target.do(insert(table, *again), in_backfill={table.id})
    assert applied.replaced[table.id, "t", "nul_byte"] == len(again)
    assert target.rows(table)[0] == (1, None, "ab")
    target.do(SchemaChange("", table, None))


def test_a_value_out_of_range_names_the_column_and_not_the_value(
    target: Target, things: Table
) -> None:
    for rows in ([row(1, 99999999999)], [row(n, 99999999999) for n in range(MANY)]):
        error = target.refuses(insert(things, *rows))
        assert isinstance(error, ApplyError)
        assert "999999" not in f"{error} {error.hint}"
        assert "shop.things" in str(error)


def test_truncate_and_caught_up_take_effect_at_their_place(target: Target, things: Table) -> None:
    target.do(insert(things, row(1)))
    applied = target.do(insert(things, row(2)), Truncate(things), insert(things, row(1)))
    assert target.rows(things) == [row(1)]
    assert not applied.drift
    target.do(CaughtUp(things), Truncate(things), insert(things, row(3, 3)))
    assert target.rows(things) == [row(3, 3)]


def test_a_large_transaction_in_many_pieces(target: Target, things: Table) -> None:
    rows = [row(n, n) for n in range(20 * MANY)]
    for start in range(0, len(rows), MANY):
        target.apply(insert(things, *rows[start : start + MANY]))
    for start in range(0, len(rows), MANY):
        part = rows[start : start + MANY]
        assert not target.apply(update(things, *((old, (*old[:2], "x", "")) for old in part))).drift
    assert target.rows(things) == []
    target.commit()
    assert {its[2] for its in target.rows(things)} == {"x"}
    target.apply(delete(things, *rows))
    target.run(target.sink.rollback())
    assert len(target.rows(things)) == len(rows)
    assert not target.do(delete(things, *rows)).drift
    assert target.rows(things) == []


def test_staged_updates_do_not_use_a_nested_loop(target: Target, things: Table) -> None:
    """The table is new and has no statistics. A nested loop would make 1.6 billion comparisons."""
    rows = [row(n, n) for n in range(40_000)]
    target.apply(insert(things, *rows))
    target.apply(update(things, *((old, (*old[:2], "x", "")) for old in rows)))
    applied = target.apply(delete(things, *rows))
    target.commit()
    assert not applied.drift
    assert target.rows(things) == []


def test_staged_statements_use_the_index_of_the_key(target: Target, things: Table) -> None:
    """Reading the whole table for each batch costs more, the larger the table is."""

    def rows_read_in_sequence() -> int:
        query = (
            f"SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = '{things.id.name}'"
        )
        cursor = target.run(target.sink._session.execute(query))
        return int((target.run(cursor.fetchone()) or (0,))[0])

    rows = [row(n, n) for n in range(10_000)]
    target.do(insert(things, *rows))
    target.query(f"ANALYZE {things.id}")
    before = rows_read_in_sequence()
    target.apply(update(things, *((old, (*old[:2], "x", "")) for old in rows[:8_000])))
    target.apply(insert(things, *rows[:8_000]), in_backfill={things.id})
    target.apply(delete(things, *reversed(rows)))
    assert rows_read_in_sequence() == before
    target.commit()
    assert target.rows(things) == []


def test_a_staged_statement_is_planned_each_time(target: Target, things: Table) -> None:
    """A plan for many rows would read the whole table for few."""
    rows = [row(n, n) for n in range(MANY)]
    for _ in range(8):
        target.do(insert(things, *rows), in_backfill={things.id})
        target.do(insert(things, *rows))
        target.do(update(things, *((old, (*old[:2], "x", "")) for old in rows)))
        target.do(delete(things, *rows))
    cursor = target.run(
        target.sink._session.execute(
            "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%pg_temp%'"
        )
    )
    assert target.run(cursor.fetchall()) == []


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=steps,
    then=steps,
    cuts=st.lists(st.integers(0, 40), max_size=3),
    minimal=st.booleans(),
    large=st.booleans(),
)
def test_any_history_in_any_batches(
    target: Target,
    things: Table,
    monkeypatch: pytest.MonkeyPatch,
    before: list[Any],
    then: list[Any],
    cuts: list[int],
    minimal: bool,
    large: bool,
) -> None:
    monkeypatch.setattr(target.sink._session, "single_rows", 0 if large else 50)
    history = History(minimal=minimal)
    history.play(before)
    history.play(then)
    target.apply(Truncate(things))
    places = sorted({0, *(place for place in cuts if place < len(history.log)), len(history.log)})
    for start, end in pairwise(places):
        applied = target.apply(*history.log[start:end])
        assert not applied.drift
    target.commit()
    assert target.rows(things) == sorted(history.rows.values(), key=repr)


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
def test_equal_rows_are_left_alone(target: Target, many: bool) -> None:
    """GIVEN rows that a chunk of a backfill in place reads again WHEN some of them differ, in a bit
    of a number or in a value that is stored apart from its row, THEN these alone are written."""
    columns = (number("id"), Column("a", Type("float64"), "double"), Column("b", Type("text"), "t"))
    table = Table(TableId("shop", "measured"), columns, key=(0,))
    target.create(table)
    rows: list[Row] = [(n, 0.0, f"{n % 7}" * 9) for n in range(MANY if many else 8)]
    chance = Random(7)
    long = "".join(chance.choices("abcdefgh", k=40_000))
    rows[3], rows[4] = (3, 1.5, long), (4, None, long)
    target.do(insert(table, *rows))

    def versions() -> list[str]:
        return [it[0] for it in target.query("SELECT ctid::text FROM shop.measured ORDER BY id")]

    before = versions()
    kept = DeleteRange(table, ("id",), KeyRange(None, None), rows)
    target.do(kept, read(table, *rows), in_backfill={table.id})
    assert versions() == before
    changed = [(1, -0.0, rows[1][2]), rows[2], rows[3], (4, None, long[:-1] + "X")]
    target.do(kept, read(table, rows[0], *changed, *rows[5:]), in_backfill={table.id})
    differing = [
        n for n, (old, new) in enumerate(zip(before, versions(), strict=True)) if old != new
    ]
    assert differing == [1, 4]
    assert target.query("SELECT a::text FROM shop.measured WHERE id = 1") == [("-0",)]
    target.do(SchemaChange("", table, None))
