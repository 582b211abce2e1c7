"""When a batch is due: it ends with a transaction, unless one transaction exceeds the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.change import Begin, Cascade, Change, Commit, Heartbeat, Row, Rows
from engine.pipeline.batching import Batcher, times_larger, weigh
from engine.schema import Column, Table, TableId, Type

TABLE = Table(TableId("shop", "t"), (Column("id", Type("int32"), "int"),), key=(0,))


def transaction(number: int, rows: int) -> list[Change]:
    changes: list[Change] = [Begin(str(number), str(number - 1), 0.0)]
    if rows:
        changes.append(Rows(TABLE, "insert", None, [(n,) for n in range(rows)], size=rows * 10))
    return [*changes, Commit(str(number), 0.0)]


def feed(batcher: Batcher, changes: list[Change], now: float = 0.0) -> None:
    batcher.add(changes, *weigh(changes), now)


def test_takes_up_to_the_last_end_and_keeps_the_rest() -> None:
    batcher = Batcher(1000, 1 << 20, 1.0)
    tail: list[Change] = [Begin("3", "2", 0.0)]
    feed(batcher, transaction(1, 5) + transaction(2, 7) + tail)
    batch = batcher.take(0.0)
    assert batch is not None
    assert batch.rows == 12
    assert isinstance(batch.end, Commit)
    assert str(batch.end.position) == "2"
    assert batcher.take(0.0) is None
    feed(batcher, [Commit("3", 0.0)])
    batch = batcher.take(0.0)
    assert batch is not None
    assert batch.changes == [*tail, Commit("3", 0.0)]


def test_the_values_of_cascades_have_a_weight() -> None:
    """A transaction of cascades alone is split at the limits as one of rows."""
    values: list[Row] = [(n,) for n in range(1000)]
    deleted = Cascade(TABLE.id, ("id",), values, None, (TABLE,))
    changed = Cascade(TABLE.id, ("id",), values, values, (TABLE,))
    rows, size = weigh([deleted])
    assert rows == 1000
    assert size >= 1000 * 100
    assert weigh([changed]) == (1000, 2 * size)
    batcher = Batcher(1 << 30, size, 60.0)
    feed(batcher, [Begin("1", "0", 0.0), deleted])
    assert batcher.full(0.0)


def test_a_heartbeat_is_an_end() -> None:
    batcher = Batcher(1000, 1 << 20, 1.0)
    feed(batcher, [Heartbeat("9", 0.0)])
    batch = batcher.take(0.0)
    assert batch is not None
    assert batch.end == Heartbeat("9", 0.0)


def test_a_transaction_that_exceeds_the_limits_is_split_and_ends_with_its_commit() -> None:
    batcher = Batcher(100, 1 << 30, 1.0)
    whole = transaction(1, 250)
    rows = whole[1]
    assert isinstance(rows, Rows)
    feed(batcher, whole[:2])
    piece = batcher.take(0.0)
    assert piece is not None
    assert piece.end is None
    assert piece.rows == 250
    assert not batcher
    feed(batcher, whole[2:])
    last = batcher.take(0.0)
    assert last is not None
    assert last.end == Commit("1", 0.0)


def test_an_unfinished_transaction_below_the_limits_waits() -> None:
    batcher = Batcher(100, 1 << 30, 1.0)
    feed(batcher, transaction(1, 5)[:2])
    assert batcher.take(0.0) is None


def test_is_full_by_rows_bytes_or_age() -> None:
    by_rows = Batcher(10, 1 << 30, 60.0)
    feed(by_rows, transaction(1, 10))
    assert by_rows.full(0.0)
    by_bytes = Batcher(1 << 30, 1000, 60.0)
    feed(by_bytes, transaction(1, 10))
    assert by_bytes.full(0.0)
    by_age = Batcher(1 << 30, 1 << 30, 2.0)
    feed(by_age, transaction(1, 1), now=5.0)
    assert not by_age.full(6.9)
    assert by_age.full(7.0)
    assert not Batcher(1, 1, 0.0).full(99.0)


@given(st.lists(st.integers(0, 30), max_size=20), st.lists(st.integers(1, 7)), st.integers(1, 40))
def test_nothing_is_lost_added_or_reordered(
    sizes: list[int], cuts: list[int], max_rows: int
) -> None:
    log = [c for number, rows in enumerate(sizes, 1) for c in transaction(number, rows)]
    batcher = Batcher(max_rows, 1 << 30, 1.0)
    taken: list[Change] = []
    rest = log
    for cut in [*cuts, len(log)]:
        feed(batcher, rest[:cut])
        rest = rest[cut:]
        while (batch := batcher.take(0.0)) is not None:
            assert (batch.rows, weigh(batch.changes)[1]) == (weigh(batch.changes)[0], batch.size)
            assert batch.end is None or batch.changes[-1] is batch.end
            taken += batch.changes
    assert taken == log


def test_batches_of_a_far_target_are_larger() -> None:
    assert [times_larger(seconds) for seconds in (0.0003, 0.009, 0.011, 0.02, 0.4)] == [
        1,
        1,
        2,
        3,
        3,
    ]
