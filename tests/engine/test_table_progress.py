"""Which changes of the stream a table takes while it is being copied."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from engine.change import Begin, CaughtUp, Change, Chunk, Commit, Rows, SchemaChange, Truncate
from engine.checkpoint import TableProgress
from engine.pipeline.table_progress import ProgressTracker
from engine.schema import Column, Table, TableId, Type

ID = Column("id", Type("int32"), "int", nullable=False)
KEYED = Table(TableId("shop", "keyed"), (ID,), key=(0,))
KEYLESS = Table(TableId("shop", "bag"), (ID,))


def includes(position: str, begin: Begin) -> bool:
    return int(begin.transaction) <= int(position)


def reached(position: str, target: str) -> bool:
    return int(position) >= int(target)


def snapshot(*tables: Table) -> ProgressTracker:
    return ProgressTracker(tables, {table.id: TableProgress() for table in tables}, includes)


def insert(table: Table, number: int) -> list[Change]:
    rows = Rows(table, "insert", None, [(number,)])
    return [Begin(str(number), str(number - 1), 0.0), rows, Commit(str(number), 0.0)]


def changed(changes: list[Change]) -> list[Change]:
    return [c for c in changes if not isinstance(c, Begin | Commit)]


def test_changes_before_the_first_chunk_are_left_to_it() -> None:
    state = snapshot(KEYED)
    assert changed(state.admit([*insert(KEYED, 1), Truncate(KEYED)])) == []
    assert state.in_backfill == frozenset()


def test_a_keyed_table_takes_changes_while_it_is_copied_and_settles_after() -> None:
    state = snapshot(KEYED)
    state.backfilled(Chunk(KEYED, [(1,), (2,)], "[2]", "10"))
    assert state.next_table() == KEYED
    assert state.in_backfill == {KEYED.id}
    assert len(changed(state.admit(insert(KEYED, 5)))) == 1
    state.backfilled(Chunk(KEYED, [(3,)], None, "12"))
    assert state.next_table() is None
    assert state.progress[KEYED.id].rows == 3
    assert state.caught_up("11", reached) == []
    assert state.caught_up("12", reached) == [CaughtUp(KEYED)]
    assert state.live


def test_a_table_without_a_key_skips_what_its_copy_shows() -> None:
    state = snapshot(KEYLESS)
    state.backfilled(Chunk(KEYLESS, [(1,)], None, "10"))
    assert changed(state.admit(insert(KEYLESS, 10))) == []
    assert len(changed(state.admit(insert(KEYLESS, 11)))) == 1


def test_a_transaction_that_arrives_in_pieces_is_skipped_whole() -> None:
    state = snapshot(KEYLESS)
    state.backfilled(Chunk(KEYLESS, [(1,)], None, "10"))
    begin, rows, commit = insert(KEYLESS, 9)
    assert state.admit([begin]) == [begin]
    assert state.admit([rows]) == []
    assert state.admit([rows, commit]) == [commit]


def test_a_table_made_by_the_log_is_live_at_once() -> None:
    state = snapshot(KEYED)
    assert state.admit([SchemaChange("", None, KEYLESS)]) == [
        SchemaChange("", None, KEYLESS),
        CaughtUp(KEYLESS),
    ]
    assert len(changed(state.admit(insert(KEYLESS, 1)))) == 1


def copying(table: Table) -> ProgressTracker:
    state = snapshot(table)
    state.backfilled(Chunk(table, [(1,)], "[1]", "3"))
    return state


def in_backfill(table: Table) -> ProgressTracker:
    state = snapshot(table)
    state.backfilled(Chunk(table, [(1,)], None, "3"))
    return state


@pytest.mark.parametrize("begin", [copying, in_backfill])
def test_a_copy_holds_only_as_long_as_name_and_key_mean_the_same(
    begin: Callable[[Table], ProgressTracker],
) -> None:
    """Chunks are read by name: after a rename they may have shown another table's rows."""
    moved = msgspec.structs.replace(KEYED, id=TableId("shop", "moved"), version=2)
    other = Column("code", Type("text"), "varchar(5)", nullable=False)
    rekeyed = Table(KEYED.id, (ID, other), key=(1,), version=2)
    unkeyed = Table(KEYED.id, (ID,), version=2)
    reordered = Table(KEYED.id, (Column("id", ID.type, "int unsigned"),), key=(0,), version=2)
    for after in (moved, rekeyed, unkeyed, reordered):
        state = begin(KEYED)
        change = SchemaChange("", KEYED, after)
        assert state.admit([change]) == [Truncate(KEYED), change]
        assert state.progress[after.id].state == "pending"


def test_a_copy_goes_on_after_a_change_that_leaves_name_and_key() -> None:
    state = copying(KEYED)
    wider = Table(KEYED.id, (ID, Column("more", Type("text"), "text")), key=(0,), version=2)
    change = SchemaChange("", KEYED, wider)
    assert state.admit([change]) == [change]
    assert (state.next_table(), state.progress[KEYED.id].cursor) == (wider, "[1]")


def test_progress_goes_with_a_dropped_table() -> None:
    state = copying(KEYED)
    state.admit([SchemaChange("", KEYED, None)])
    assert state.next_table() is None
    assert state.progress == {}


def test_a_key_that_moves_with_half_a_row_starts_the_copy_again() -> None:
    """The row may leave a key that was not copied yet for one that was: no chunk would show it."""
    more = Column("more", Type("text"), "text")
    table = Table(KEYED.id, (ID, more), key=(0,))
    state = snapshot(table)
    state.backfilled(Chunk(table, [(1, "a")], "[1]", "3"))
    stays = Rows(table, "update", [(5, None)], [(5, "x")], 0b01, 0b11)
    partial = Rows(table, "update", [(5, None)], [(5, None)], 0b01, 0b01)
    assert changed(state.admit([stays, partial])) == [stays, partial]
    moves = Rows(table, "update", [(5, None)], [(0, None)], 0b01, 0b01)
    assert changed(state.admit([moves, stays])) == [Truncate(table)]
    assert state.progress[table.id].state == "pending"


def test_the_largest_table_is_next_and_the_smallest_is_the_first_that_waits() -> None:
    tables = [Table(TableId("shop", f"t{n}"), (ID,), key=(0,)) for n in range(5)]
    state = snapshot()
    for table, estimate in zip(tables, (3, 0, 9, 1, 7), strict=True):
        state.add(table, estimate)
    order = [table.id.name for table in state.pending]
    assert order == ["t1", "t3", "t0", "t4", "t2"]
    for name in reversed(order):
        table = state.next_table()
        assert table is not None
        assert table.id.name == name
        state.backfilled(Chunk(table, [(1,)], "[1]", "5"))
        assert state.next_table() == table
        state.backfilled(Chunk(table, [], None, "5"))
    assert state.next_table() is None
    state.restart(tables[1].id)
    assert state.next_table() == tables[1]
    assert not state.live


def test_so_many_tables_settle_at_once_and_no_more() -> None:
    tables = [Table(TableId("shop", f"t{n:04}"), (ID,), key=(0,)) for n in range(1200)]
    state = snapshot(*tables)
    for table in tables:
        state.backfilled(Chunk(table, [], None, "5"))
    asked: list[str] = []

    def counted(position: str, target: str) -> bool:
        asked.append(target)
        return reached(position, target)

    found = [state.caught_up("5", counted) for _ in range(4)]
    assert [len(settled) for settled in found] == [500, 500, 200, 0]
    assert len(asked) == 3
    assert state.live
    assert [one for settled in found for one in settled] == [CaughtUp(table) for table in tables]


def test_progress_is_the_same_object_until_it_changes() -> None:
    state = snapshot(KEYED, KEYLESS)
    before = state.progress
    assert state.progress is before
    state.backfilled(Chunk(KEYED, [], None, "5"))
    assert state.progress is not before
    assert before[KEYED.id].state == "pending"


def test_illegal_steps_are_refused() -> None:
    live = TableProgress("live")
    with pytest.raises(ValueError, match="takes no chunk"):
        live.backfilled(1, None, "1")
    with pytest.raises(ValueError, match="cannot catch up"):
        live.caught_up()
