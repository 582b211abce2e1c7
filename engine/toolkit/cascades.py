"""
What foreign keys do when rows of a table are deleted or changed. Pure.

A row that a foreign key deletes or changes may itself be referred to, so further foreign keys act,
and so on; they may form cycles. ``reached`` lists every foreign key that may act, level by level:
the pipeline decides by it which tables are changed, and a sink executes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

from engine.change import Cascade, Folding, Row
from engine.errors import UnloggedChange
from engine.schema import ForeignKey, ReferentialAction, Table, TableId

__all__ = [
    "FOLDED_CHARACTERS",
    "Step",
    "depth_of_cascades",
    "fold",
    "folded_values",
    "order_matters",
    "reached",
    "runs",
    "steps",
    "uncertain",
]

#: The longest text that is folded, so that an index can hold it.
FOLDED_CHARACTERS: Final = 255
_FOLDABLE: Final = re.compile(f"[ -~]{{0,{FOLDED_CHARACTERS}}}")


class Step(NamedTuple):
    """A foreign key that acts on rows of ``child`` after rows of its parent were deleted, or, with
    ``update``, after their referenced columns were changed.
    """

    child: Table
    key: ForeignKey
    update: bool

    @property
    def action(self) -> ReferentialAction:
        """What happens to the rows of the child."""
        return self.key.on_update if self.update else self.key.on_delete

    @property
    def deletes(self) -> bool:
        """Whether the rows of the child are deleted. Otherwise the key's columns are changed."""
        return self.action == "cascade" and not self.update

    @property
    def changed(self) -> frozenset[str] | None:
        """The columns of the child that are changed; None if its rows are deleted."""
        return None if self.deletes else frozenset(self.key.columns)

    def unlogged(
        self, reason: str, *, position: object | None, in_backfill: bool
    ) -> UnloggedChange:
        """The error about an action that cannot be applied; whether the child is in backfill."""
        hint = "delete or change such rows before those of their parent, so that the log has them"
        if in_backfill:
            hint = "backfill the table at a time when few rows of its parents are deleted"
        return UnloggedChange(
            f"rows are deleted or changed by the foreign key {self.key.name}, which the log does"
            f" not show: {reason}",
            hint=hint,
            table=self.child.id,
            position=position,
        )


def steps(tables: Iterable[Table], parent: TableId, changed: frozenset[str] | None) -> list[Step]:
    """The foreign keys of ``tables`` that act when rows of ``parent`` are deleted, or these columns
    of its rows are changed.
    """
    found = [
        Step(child, key, changed is not None)
        for child in tables
        for key in child.foreign_keys or ()
        if key.parent == parent and (changed is None or changed.intersection(key.parent_columns))
    ]
    return [step for step in found if step.action != "restrict"]


def reached(change: Cascade) -> Iterator[tuple[TableId, Step]]:
    """Every foreign key that may act, after the parent whose rows make it act.

    A cycle ends where it begins: its first foreign key occurs a second time, after its own table.
    """
    changed = None if change.after is None else frozenset(change.columns)
    first = [
        step
        for step in steps(change.tables, change.parent, changed)
        if step.key.parent_columns == change.columns
    ]
    waiting = [(change.parent, first)]
    seen: set[tuple[TableId, str, bool]] = set()
    while waiting:
        parent, found = waiting.pop(0)
        for step in found:
            yield parent, step
            mark = (step.child.id, step.key.name, step.update)
            if mark not in seen:
                seen.add(mark)
                child = step.child.id
                waiting.append((child, steps(change.tables, child, step.changed)))


def depth_of_cascades(tables: Mapping[TableId, Table]) -> dict[TableId, int]:
    """For each table with foreign keys that cascade, how many parents are above it, at least."""
    depths = {
        table.id: 0
        for table in tables.values()
        if any(it.cascades for it in table.foreign_keys or ())
    }
    for _ in range(len(depths)):
        before = dict(depths)
        for id in depths:
            parents = [it.parent for it in tables[id].foreign_keys or () if it.parent != id]
            depths[id] = 1 + max((before.get(parent, 0) for parent in parents), default=0)
            depths[id] = min(depths[id], len(depths))
        if depths == before:
            break
    return depths


def order_matters(table: Table, tables: Iterable[Table] = ()) -> str:
    """Two foreign keys of the table whose joint effect depends on their order; empty if there are
    none: they share a column, and one of them changes it; or one changes a column that a foreign
    key of ``tables`` refers to.
    """
    keys = [key for key in table.foreign_keys or () if key.cascades]
    for one, other in combinations(keys, 2):
        shared = set(one.columns) & set(other.columns)
        changes = any(
            key.on_delete == "set null" or key.on_update != "restrict" for key in (one, other)
        )
        referred = any(
            steps(tables, table.id, frozenset(key.columns))
            for key in (one, other)
            if key.on_delete == "set null"
        )
        if (shared and changes) or referred:
            return f"{one.name} and {other.name}"
    return ""


def fold(text: str, folding: Folding) -> str | None:
    """What is the same for texts that a foreign key takes for equal; None if it is not known."""
    if not _FOLDABLE.fullmatch(text):
        return None
    text = text.rstrip(" ") if folding.spaces else text
    return text.lower() if folding.case else text


def folded_values(values: Row, foldings: Sequence[Folding | None]) -> Row | None:
    """The values of a foreign key, with texts as ``fold`` makes them; None if one is not known."""
    if not foldings:
        return values
    found = tuple(
        value if how is None or value is None else fold(value, how)
        for value, how in zip(values, foldings, strict=True)
    )
    unknown = any(new is None and old is not None for old, new in zip(values, found, strict=True))
    return None if unknown else found


def uncertain(step: Step) -> UnloggedChange:
    """The error about texts of which it is not known which are equal for the source."""
    return UnloggedChange(
        f"rows are deleted or changed by the foreign key {step.key.name}, which the log does not"
        " show: there are texts with other than ASCII characters, or long ones, which may be equal"
        " for the source",
        hint="delete or change such rows before those of their parent, so that the log has them",
        table=step.child.id,
    )


def runs(
    before: list[Row], after: list[Row], *, apart: bool = False
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Cut changed values where one follows another, such as 1 → 2 after 2 → 3.

    The values of a run can be changed together; the runs must be applied in order. ``apart``:
    values that differ may be equal, so each is a run.
    """
    olds: set[Row] = set()
    news: set[Row] = set()
    start = 0
    for end, (old, new) in enumerate(zip(before, after, strict=True)):
        if end > start and (apart or old in olds or old in news or new in olds):
            yield before[start:end], after[start:end]
            olds, news, start = set(), set(), end
        olds.add(old)
        news.add(new)
    yield before[start:], after[start:]
