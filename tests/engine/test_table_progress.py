"""The states of a table, and which changes of the stream it admits in each."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from engine.change import (
    Begin,
    Cascade,
    CaughtUp,
    Change,
    Chunk,
    Commit,
    DeletePart,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.checkpoint import TableProgress
from engine.errors import UnloggedChange
from engine.pipeline.table_progress import ProgressTracker
from engine.schema import Column, ForeignKey, Part, Table, TableId, Type

ID = Column("id", Type("int32"), "int", nullable=False)
KEYED = Table(TableId("shop", "keyed"), (ID,), key=(0,))
KEYLESS = Table(TableId("shop", "keyless"), (ID,))


def includes(position: str, begin: Begin) -> bool:
    return int(begin.transaction) <= int(position)


def reached(position: str, target: str) -> bool:
    return int(position) >= int(target)


def pending(*tables: Table) -> ProgressTracker:
    """The tracker of tables that are all pending."""
    return ProgressTracker(tables, {table.id: TableProgress() for table in tables}, includes)


def insert(table: Table, number: int) -> list[Change]:
    rows = Rows(table, "insert", None, [(number,)])
    return [Begin(str(number), str(number - 1), 0.0), rows, Commit(str(number), 0.0)]


def without_frame(changes: list[Change]) -> list[Change]:
    return [change for change in changes if not isinstance(change, Begin | Commit)]


def test_a_table_catches_up_with_the_chunk_that_was_read_last() -> None:
    """Several chunks are read at a time, so an earlier one may show later changes."""
    tracker = pending(KEYED)
    for cursor, watermark in (("[2]", "10"), ("[4]", "9"), ("[6]", "14"), (None, "12")):
        tracker.backfilled(Chunk(KEYED, [(1,)], cursor, watermark), reached)
    assert tracker.progress[KEYED.id].rows == 4
    assert tracker.caught_up("13", reached) == []
    assert tracker.caught_up("14", reached) == [CaughtUp(KEYED)]


def test_changes_to_a_pending_table_are_dropped() -> None:
    tracker = pending(KEYED)
    assert without_frame(tracker.admit([*insert(KEYED, 1), Truncate(KEYED)])) == []
    assert tracker.in_backfill == frozenset()


def test_a_keyed_table_admits_changes_during_its_backfill_and_catches_up_after_it() -> None:
    tracker = pending(KEYED)
    tracker.backfilled(Chunk(KEYED, [(1,), (2,)], "[2]", "10"), reached)
    assert tracker.next_table() == KEYED
    assert tracker.in_backfill == {KEYED.id}
    assert len(without_frame(tracker.admit(insert(KEYED, 5)))) == 1
    tracker.backfilled(Chunk(KEYED, [(3,)], None, "12"), reached)
    assert tracker.next_table() is None
    assert tracker.progress[KEYED.id].rows == 3
    assert tracker.caught_up("11", reached) == []
    assert tracker.caught_up("12", reached) == [CaughtUp(KEYED)]
    assert tracker.live


def test_a_keyless_table_drops_the_changes_that_its_chunks_show() -> None:
    tracker = pending(KEYLESS)
    tracker.backfilled(Chunk(KEYLESS, [(1,)], None, "10"), reached)
    assert without_frame(tracker.admit(insert(KEYLESS, 10))) == []
    assert len(without_frame(tracker.admit(insert(KEYLESS, 11)))) == 1


def test_a_transaction_that_is_read_in_pieces_is_dropped_whole() -> None:
    tracker = pending(KEYLESS)
    tracker.backfilled(Chunk(KEYLESS, [(1,)], None, "10"), reached)
    begin, rows, commit = insert(KEYLESS, 9)
    assert tracker.admit([begin]) == [begin]
    assert tracker.admit([rows]) == []
    assert tracker.admit([rows, commit]) == [commit]


def test_a_part_is_removed_from_a_live_table_and_may_start_a_backfill_again() -> None:
    table = Table(KEYED.id, (ID, Column("n", ID.type, "int")), key=(0,))
    tracker = pending(table, KEYLESS)
    keyed, keyless = (DeletePart(it, Part(it.names[-1], ((None, 7),))) for it in (table, KEYLESS))
    by_key, begin = DeletePart(table, Part("id", ((None, 7),))), Begin("11", "10", 0.0)
    assert without_frame(tracker.admit([begin, keyed, keyless])) == []
    tracker.backfilled(Chunk(table, [(1, 7)], "[1]", "10"), reached)
    tracker.backfilled(Chunk(KEYLESS, [(1,)], None, "11"), reached)
    assert without_frame(tracker.admit([begin, by_key])) == [by_key]
    # A row of the chunk may have moved into the part later, so the chunks are read again.
    assert without_frame(tracker.admit([begin, keyed, keyless])) == [Truncate(table)]
    assert tracker.progress[KEYED.id].state == "pending"
    assert without_frame(tracker.admit([Begin("12", "11", 0.0), keyless])) == [keyless]
    tracker.backfilled(Chunk(table, [(1, 7)], None, "10"), reached)
    tracker.caught_up("12", reached)
    assert tracker.live
    assert without_frame(tracker.admit([begin, keyed, keyless])) == [keyed, keyless]


def test_a_table_that_the_log_creates_is_live_at_once() -> None:
    tracker = pending(KEYED)
    assert tracker.admit([SchemaChange("", None, KEYLESS)]) == [
        SchemaChange("", None, KEYLESS),
        CaughtUp(KEYLESS),
    ]
    assert len(without_frame(tracker.admit(insert(KEYLESS, 1)))) == 1


def backfilling(table: Table) -> ProgressTracker:
    tracker = pending(table)
    tracker.backfilled(Chunk(table, [(1,)], "[1]", "3"), reached)
    return tracker


def catching_up(table: Table) -> ProgressTracker:
    tracker = pending(table)
    tracker.backfilled(Chunk(table, [(1,)], None, "3"), reached)
    return tracker


@pytest.mark.parametrize("begin", [backfilling, catching_up])
def test_a_backfill_starts_again_when_name_or_key_change(
    begin: Callable[[Table], ProgressTracker],
) -> None:
    """Chunks are read by name: after a rename they may have shown the rows of another table."""
    renamed = msgspec.structs.replace(KEYED, id=TableId("shop", "renamed"), version=2)
    other = Column("code", Type("text"), "varchar(5)", nullable=False)
    rekeyed = Table(KEYED.id, (ID, other), key=(1,), version=2)
    unkeyed = Table(KEYED.id, (ID,), version=2)
    reordered = Table(KEYED.id, (Column("id", ID.type, "int unsigned"),), key=(0,), version=2)
    for after in (renamed, rekeyed, unkeyed, reordered):
        tracker = begin(KEYED)
        change = SchemaChange("", KEYED, after)
        assert tracker.admit([change]) == [Truncate(KEYED), change]
        assert tracker.progress[after.id].state == "pending"


def test_a_backfill_goes_on_when_name_and_key_stay() -> None:
    tracker = backfilling(KEYED)
    wider = Table(KEYED.id, (ID, Column("more", Type("text"), "text")), key=(0,), version=2)
    change = SchemaChange("", KEYED, wider)
    assert tracker.admit([change]) == [change]
    assert (tracker.next_table(), tracker.progress[KEYED.id].cursor) == (wider, "[1]")


def test_a_dropped_table_has_no_progress() -> None:
    tracker = backfilling(KEYED)
    tracker.admit([SchemaChange("", KEYED, None)])
    assert tracker.next_table() is None
    assert tracker.progress == {}


def test_a_key_change_with_a_partial_image_starts_the_backfill_again() -> None:
    """The row may change from a key that is not backfilled yet to one that is. Then no later chunk
    shows it.
    """
    more = Column("more", Type("text"), "text")
    table = Table(KEYED.id, (ID, more), key=(0,))
    tracker = pending(table)
    tracker.backfilled(Chunk(table, [(1, "a")], "[1]", "3"), reached)
    same_key = Rows(table, "update", [(5, None)], [(5, "x")], 0b01, 0b11)
    partial = Rows(table, "update", [(5, None)], [(5, None)], 0b01, 0b01)
    assert without_frame(tracker.admit([same_key, partial])) == [same_key, partial]
    key_change = Rows(table, "update", [(5, None)], [(0, None)], 0b01, 0b01)
    assert without_frame(tracker.admit([key_change, same_key])) == [Truncate(table)]
    assert tracker.progress[table.id].state == "pending"


def test_the_largest_table_is_next_and_the_smallest_is_the_first_pending_one() -> None:
    tables = [Table(TableId("shop", f"t{n}"), (ID,), key=(0,)) for n in range(5)]
    tracker = pending()
    for table, estimate in zip(tables, (3, 0, 9, 1, 7), strict=True):
        tracker.add(table, estimate)
    order = [table.id.name for table in tracker.pending]
    assert order == ["t1", "t3", "t0", "t4", "t2"]
    for name in reversed(order):
        table = tracker.next_table()
        assert table is not None
        assert table.id.name == name
        tracker.backfilled(Chunk(table, [(1,)], "[1]", "5"), reached)
        assert tracker.next_table() == table
        tracker.backfilled(Chunk(table, [], None, "5"), reached)
    assert tracker.next_table() is None
    tracker.restart(tables[1].id)
    assert tracker.next_table() == tables[1]
    assert not tracker.live


def test_a_bounded_number_of_tables_becomes_live_at_once() -> None:
    tables = [Table(TableId("shop", f"t{n:04}"), (ID,), key=(0,)) for n in range(1200)]
    tracker = pending(*tables)
    for table in tables:
        tracker.backfilled(Chunk(table, [], None, "5"), reached)
    asked: list[str] = []

    def counted(position: str, target: str) -> bool:
        asked.append(target)
        return reached(position, target)

    found = [tracker.caught_up("5", counted) for _ in range(4)]
    assert [len(caught_up) for caught_up in found] == [500, 500, 200, 0]
    assert len(asked) == 3
    assert tracker.live
    assert [one for part in found for one in part] == [CaughtUp(table) for table in tables]


def test_progress_is_the_same_object_until_it_changes() -> None:
    tracker = pending(KEYED, KEYLESS)
    before = tracker.progress
    assert tracker.progress is before
    tracker.backfilled(Chunk(KEYED, [], None, "5"), reached)
    assert tracker.progress is not before
    assert before[KEYED.id].state == "pending"


def test_other_steps_between_states_raise() -> None:
    live = TableProgress("live")
    with pytest.raises(ValueError, match="takes no chunk"):
        live.backfilled(1, None, "1")
    with pytest.raises(ValueError, match="cannot catch up"):
        live.caught_up()


def family(*, self_reference: bool = False) -> tuple[Table, Table]:
    """A child of the table ``shop.p``, and a child of this child."""
    parent, child = TableId("shop", "p"), TableId("shop", "child")
    keys = [ForeignKey("f", ("id",), parent, ("id",), "cascade", "cascade")]
    if self_reference:
        keys.append(ForeignKey("s", ("id",), child, ("id",), "cascade"))
    grandchild = ForeignKey("g", ("id",), child, ("id",), "cascade")
    return (
        Table(child, (ID,), key=(0,), foreign_keys=tuple(keys)),
        Table(TableId("shop", "grandchild"), (ID,), key=(0,), foreign_keys=(grandchild,)),
    )


def cascade(*tables: Table, update: bool = False, inexact: bool = False) -> Cascade:
    after: list[tuple[int]] | None = [(2,)] if update else None
    reasons = {(TableId("shop", "child"), "f"): "texts"} if inexact else {}
    return Cascade(TableId("shop", "p"), ("id",), [(1,)], after, tables, reasons)  # type: ignore[arg-type]


def states(*tables: Table, **of: str) -> ProgressTracker:
    progress = {table.id: TableProgress(of[table.id.name]) for table in tables}  # type: ignore[arg-type]
    return ProgressTracker(tables, progress, includes)


def test_a_cascade_has_the_tables_that_have_to_be_changed() -> None:
    child, grandchild = family()
    change = cascade(child, grandchild)
    assert states(child, grandchild, child="live", grandchild="live").admit([change]) == [change]
    tracker = states(child, grandchild, child="live", grandchild="pending")
    assert tracker.admit([change]) == [msgspec.structs.replace(change, tables=(child,))]
    assert states(child, grandchild, child="pending", grandchild="pending").admit([change]) == []


def test_a_grandchild_is_backfilled_again_if_its_parent_is_not_live() -> None:
    child, grandchild = family()
    change = cascade(child, grandchild)
    for state in ("pending", "backfilling", "catching_up"):
        with pytest.raises(UnloggedChange, match=r"shop\.grandchild"):
            states(child, grandchild, child=state, grandchild="live").admit([change])
        tracker = states(child, grandchild, child=state, grandchild="catching_up")
        assert Truncate(grandchild) in tracker.admit([change])
        assert tracker.progress[grandchild.id].state == "pending"
    with pytest.raises(UnloggedChange, match=r"shop\.grandchild"):
        states(grandchild, grandchild="live").admit([change])


def test_a_self_reference_is_not_exact_in_a_backfill() -> None:
    child, grandchild = family(self_reference=True)
    tracker = states(child, grandchild, child="backfilling", grandchild="pending")
    with pytest.raises(UnloggedChange, match=r"shop\.child") as raised:
        tracker.admit([cascade(child, grandchild)])
    assert "at a time when few rows" in raised.value.hint


def test_a_cascade_that_the_target_cannot_do_is_an_unlogged_change() -> None:
    child, _ = family()
    change = cascade(child, inexact=True)
    for state in ("live", "backfilling"):
        with pytest.raises(UnloggedChange, match="texts") as raised:
            states(child, child=state).admit([change])
        assert raised.value.hint
    assert states(child, child="pending").admit([change]) == []


def test_a_key_that_changes_its_children_makes_their_backfill_start_again() -> None:
    child, _ = family()
    change = cascade(child, update=True)
    assert states(child, child="live").admit([change]) == [change]
    assert states(child, child="catching_up").admit([change]) == [Truncate(child)]


def test_parents_are_backfilled_before_their_children() -> None:
    child, grandchild = family()
    tracker = ProgressTracker(
        (child, grandchild),
        {child.id: TableProgress(estimate=1), grandchild.id: TableProgress(estimate=9)},
        includes,
    )
    assert tracker.next_table() == child
