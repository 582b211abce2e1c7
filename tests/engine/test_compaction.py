"""
Net changes have the effect of the batch: on a model of the target, for random histories.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.change import Row, Rows
from engine.errors import UnloggedChange
from engine.schema import Table
from engine.toolkit.compaction import NetChanges, columns_of, net_changes
from tests.support.histories import KEYED, KEYLESS, History, steps


class Target:
    """Applies net changes to a dict, as a sink does; refuses duplicate unique values."""

    def __init__(self, rows: dict[int, Row], *, unique: bool = True) -> None:
        self.rows = dict(rows)
        self.unique = unique
        self.missed = 0

    def apply(self, net: NetChanges) -> None:
        missing = object()
        for row in net.deletes:
            self.missed += self.rows.pop(row[0], missing) is missing
        changed = [new for mask, rows in net.key_changes.items() for new in self._take(mask, rows)]
        for mask, rows in net.updates.items():
            for row in rows:
                self._update(row, mask)
        for row in changed:
            self._insert(row, net.upsert)
        for mask, rows in net.inserts.items():
            assert mask is None
            for row in rows:
                self._insert(row, net.upsert)

    def _take(self, mask: int, rows: list[Row]) -> list[Row]:
        taken = []
        for joined in rows:
            old = self.rows.pop(joined[0], None)
            self.missed += old is None
            if old is not None:
                known = set(columns_of(KEYED, mask))
                taken.append(tuple(joined[4 + n] if n in known else old[n] for n in range(4)))
        return taken

    def _update(self, row: Row, mask: int | None) -> None:
        old = self.rows.get(row[0])
        self.missed += old is None
        if old is not None:
            known = set(columns_of(KEYED, mask))
            new = tuple(row[n] if n in known else old[n] for n in range(4))
            assert not self.unique or old[1] == new[1], "an update in place changes a unique value"
            self.rows[row[0]] = new

    def _insert(self, row: Row, replace: bool) -> None:
        assert replace or row[0] not in self.rows
        if self.unique and row[1] is not None:
            others = [its for its in self.rows.values() if its[0] != row[0]]
            assert row[1] not in {its[1] for its in others}
        self.rows[row[0]] = row


def cut(log: list[Rows], cuts: list[int]) -> list[list[Rows]]:
    """Cut the log into batches that end at the given places."""
    places = sorted({place for place in cuts if 0 < place < len(log)})
    starts = [0, *places]
    return [log[start:end] for start, end in zip(starts, [*places, len(log)], strict=True)]


@given(steps, steps, st.lists(st.integers(0, 40), max_size=4), st.booleans())
def test_any_history_of_a_live_table(
    before: list, then: list, cuts: list[int], minimal: bool
) -> None:
    start = History()
    start.play(before)
    history = History(start.rows, minimal=minimal)
    history.play(then)
    target = Target(start.rows)
    for batch in cut(history.log, cuts):
        for net in net_changes(batch) if batch else []:
            assert net.anomalies == 0
            target.apply(net)
    assert target.rows == history.rows
    assert target.missed == 0


@given(steps, steps, st.lists(st.integers(0, 40), max_size=4), st.data())
def test_whole_images_on_top_of_chunks_read_at_different_times(
    before: list, then: list, cuts: list[int], data: st.DataObject
) -> None:
    start = History()
    start.play(before)
    history = History(start.rows)
    history.play(then)
    states = [start.rows, *history.states]
    backfilled: dict[int, Row] = {}
    for keys in (range(4), range(4, 7), range(7, 10)):
        state = states[data.draw(st.integers(0, len(states) - 1))]
        backfilled |= {key: row for key, row in state.items() if key in keys}
    target = Target(backfilled, unique=False)
    for batch in cut(history.log, cuts):
        for net in net_changes(batch, upsert=True) if batch else []:
            target.apply(net)
    assert target.rows == history.rows


@given(steps, steps, st.lists(st.integers(0, 40), max_size=4), st.data())
def test_minimal_images_on_top_of_one_consistent_snapshot(
    before: list, then: list, cuts: list[int], data: st.DataObject
) -> None:
    start = History()
    start.play(before)
    history = History(start.rows, minimal=True)
    history.play(then)
    assume(not _reuses_a_left_key(history.log))
    states = [start.rows, *history.states]
    target = Target(states[data.draw(st.integers(0, len(states) - 1))], unique=False)
    for batch in cut(history.log, cuts):
        for net in net_changes(batch, upsert=True) if batch else []:
            target.apply(net)
    assert target.rows == history.rows


def _reuses_a_left_key(log: list[Rows]) -> bool:
    """Whether a row takes a key that another row has left by a key change.

    Partial images cannot be applied on top of a later state then, so ``ProgressTracker`` restarts
    the backfill at a partial key change, and no sink gets one for a table in backfill.
    """
    left: set[int] = set()
    for rows in log:
        for after in rows.after or ():
            before = rows.before[0] if rows.before else None
            if before is None or before[0] != after[0]:
                if after[0] in left:
                    return True
                if before is not None:
                    left.add(before[0])
    return False


@given(st.lists(st.tuples(st.sampled_from("+-~"), st.integers(0, 2), st.integers(0, 2))))
def test_a_keyless_table_is_a_multiset(changes: list[tuple[str, int, int]]) -> None:
    multiset: Counter[Row] = Counter({(0, "x"): 2})
    runs = []
    for kind, one, two in changes:
        old, new = (one, "x"), (two, "x")
        if kind != "+" and not multiset[old]:
            continue
        if kind == "+":
            runs.append(Rows(KEYLESS, "insert", None, [new]))
        elif kind == "-":
            runs.append(Rows(KEYLESS, "delete", [old], None))
        else:
            runs.append(Rows(KEYLESS, "update", [old], [new]))
        if kind != "+":
            multiset[old] -= 1
        if kind != "-":
            multiset[new] += 1
    target: Counter[Row] = Counter({(0, "x"): 2})
    for net in net_changes(runs) if runs else []:
        for row in net.deletes:
            assert target[row] > 0
            target[row] -= 1
        target.update(row for rows in net.inserts.values() for row in rows)
    assert +target == +multiset


def row(key: int, code: int | None = None, a: str = "", b: str = "") -> Row:
    return (key, code, a, b)


def update(*pairs: tuple[Row, Row]) -> Rows:
    return Rows(KEYED, "update", [old for old, _ in pairs], [new for _, new in pairs])


def only(runs: list[Rows], *, upsert: bool = False) -> NetChanges:
    (net,) = net_changes(runs, upsert=upsert)
    return net


def test_a_batch_of_inserts_is_passed_on_unchanged() -> None:
    rows = [row(1), row(2)]
    net = only([Rows(KEYED, "insert", None, rows)])
    assert net.inserts == {None: rows}
    assert net.inserts[None] is rows
    assert net.direct


def test_rows_of_the_snapshot_are_upserts_and_tried_as_inserts() -> None:
    net = only([Rows(KEYED, "read", None, [row(1)])])
    assert net.upsert
    assert net.direct
    assert net.inserts == {None: [row(1)]}


def test_an_update_in_place_keeps_only_the_last_image() -> None:
    net = only([update((row(1), row(1, a="x"))), update((row(1, a="x"), row(1, a="y")))])
    assert net.updates == {None: [row(1, a="y")]}
    assert len(net) == 1


def test_swapped_unique_values_are_deleted_and_inserted() -> None:
    free = update((row(1, 5), row(1, None)))
    swap = update((row(2, 6), row(2, 5)), (row(1, None), row(1, 6)))
    net = only([free, swap])
    assert sorted(key for key, *_ in net.deletes) == [1, 2]
    assert sorted(net.inserts[None]) == [row(1, 6), row(2, 5)]
    assert not net.updates


def test_a_row_inserted_and_deleted_is_no_change_but_a_delete_in_upsert_mode() -> None:
    runs = [Rows(KEYED, "insert", None, [row(1)]), Rows(KEYED, "delete", [row(1)], None)]
    assert len(only(runs)) == 0
    assert only(runs, upsert=True).deletes == [row(1)]


def test_a_partial_update_never_inserts() -> None:
    partial = Rows(KEYED, "update", [row(1)], [(1, None, "x", None)], 0b1, 0b100)
    for upsert in (False, True):
        net = only([partial], upsert=upsert)
        assert net.updates == {0b101: [(1, None, "x", None)]}
        assert not net.inserts


def test_a_whole_image_before_completes_a_partial_one_after() -> None:
    partial = Rows(KEYED, "update", [row(1, 3, "a", "b")], [(1, None, "x", None)], None, 0b100)
    assert only([partial]).updates == {None: [(1, 3, "x", "b")]}


def test_an_insert_of_a_row_of_the_same_batch_is_an_anomaly() -> None:
    change = update((row(1), row(1, a="x")))
    net = only([change, Rows(KEYED, "insert", None, [row(1, a="y")])])
    assert net.anomalies == 1
    assert net.inserts == {None: [row(1, a="y")]}


def test_a_partial_image_before_of_a_keyless_table_is_refused() -> None:
    partial = Rows(KEYLESS, "delete", [(1, None)], None, before_present=0b1)
    with pytest.raises(UnloggedChange, match=r"part of the row before.*shop\.ledger") as raised:
        net_changes([partial])
    assert "binlog_row_image=FULL" in raised.value.hint


def test_columns_of_a_mask() -> None:
    table: Table = KEYED
    assert columns_of(table, None) == (0, 1, 2, 3)
    assert columns_of(table, 0b1001) == (0, 3)
