"""
What foreign keys do to rows without the log showing it.

InnoDB executes ON DELETE and ON UPDATE itself, below the log: the log has the parent's rows alone.
Since MySQL 9.6 the SQL layer executes them and logs them, unless ``innodb_native_foreign_keys`` is
on. So a rows event of a parent makes a ``Cascade`` here, unless the session had
``foreign_key_checks`` off, as a flag of the event says. Whether a table is a parent is decided once
per table version, with its decoder.

The target can repeat an action if it compares the values as the source does
(``sources.mysql.binlog.equality``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from engine.change import Cascade, Folding, Operation, Row, Rows
from engine.errors import DecodeError, SchemaError
from engine.schema import ForeignKey, Table, TableId
from engine.toolkit.cascades import order_matters, reached
from sources.mysql.binlog.equality import Comparison, comparison
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.versioned import current_rows, row_end

__all__ = ["Decoder", "Parent", "UnfollowedParent", "foldings", "inexact_reason"]


class Parent:
    """Makes the cascades after rows of one version of ``table``.

    ``followed``: the table's rows are part of the stream.
    """

    def __init__(self, table: Table, cascades: list[Cascade], *, followed: bool) -> None:
        self.followed = followed
        self._models = cascades
        self._row_end = row_end(table)
        self._ordinals = [_ordinals(table, model.columns) for model in cascades]

    def derive(self, rows: Rows, checks: bool) -> list[Rows | Cascade]:
        """What the rows of an event mean: these rows, if the table is followed, and then, if the
        session has checked foreign keys, what these do.
        """
        found: list[Rows | Cascade] = []
        for each in (rows,) if self._row_end is None else current_rows(rows, self._row_end):
            if self.followed:
                found.append(each)
            if checks and each.op != "insert":
                found += self._cascades(each)
        return found

    def _cascades(self, rows: Rows) -> list[Cascade]:
        found = []
        for model, ordinals in zip(self._models, self._ordinals, strict=True):
            if ordinals is None:
                reason = "the log has no column of the name that it refers to"
            else:
                before, after, reason = _values(rows, ordinals)
                if before:
                    found.append(msgspec.structs.replace(model, before=before, after=after))
            if reason:
                found.append(_unknown(model, rows.op, reason))
        return found

    def unknown(self, op: Operation, reason: str) -> list[Cascade]:
        """The cascades after rows that cannot be decoded."""
        return [_unknown(model, op, reason) for model in self._models]

    @property
    def referenced(self) -> frozenset[str]:
        """The names of the columns that foreign keys refer to, in lower case."""
        return frozenset(name.lower() for model in self._models for name in model.columns)


def _ordinals(table: Table, columns: tuple[str, ...]) -> tuple[int, ...] | None:
    places = {column.name.lower(): ordinal for ordinal, column in enumerate(table.columns)}
    if not all(name.lower() in places for name in columns):
        return None
    return tuple(places[name.lower()] for name in columns)


def _unknown(model: Cascade, op: Operation, reason: str) -> Cascade:
    """A cascade whose values are not known."""
    keys = {
        (step.child.id, step.key.name): reason
        for parent, step in reached(model)
        if parent == model.parent
    }
    after: list[Row] | None = None if op == "delete" else []
    return msgspec.structs.replace(model, after=after, inexact={**model.inexact, **keys})


def _values(rows: Rows, ordinals: tuple[int, ...]) -> tuple[list[Row], list[Row] | None, str]:
    """The values of these columns that were deleted or changed, and why they are not known."""
    wanted = sum(1 << ordinal for ordinal in ordinals)
    before_present = wanted if rows.before_present is None else rows.before_present
    after_present = wanted if rows.after_present is None else rows.after_present
    if rows.op == "update" and not after_present & wanted:
        return [], [], ""
    if before_present & wanted != wanted:
        return [], None, "the row images of the log lack the columns that it refers to"
    before = [tuple(row[n] for n in ordinals) for row in rows.before or ()]
    if rows.after is None:
        return before, None, ""
    after = [
        tuple(new[n] if after_present >> n & 1 else old[n] for n in ordinals)
        for old, new in zip(rows.before or (), rows.after, strict=True)
    ]
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    return [old for old, _ in changed], [new for _, new in changed], ""


class UnfollowedParent:
    """Decodes the rows of a parent that is not followed, for its children.

    An error is about the children: the values of the rows are unknown then. ``undecoded`` says why
    no row can be decoded; it is empty with a ``decoder``.
    """

    def __init__(
        self, id: TableId, parent: Parent, decoder: RowDecoder | None, undecoded: str = ""
    ) -> None:
        self._without_rows = Table(id, ())
        self._parent = parent
        self._decoder = decoder
        self._undecoded = undecoded
        self.derive: Callable[[Rows, bool], Sequence[Rows | Cascade]] | None = self._derive

    def decode(
        self, op: Operation, data: bytes, start: int, end: int, *, partial_json: bool = False
    ) -> Rows:
        """The rows. They have no images if these mean nothing, or cannot be decoded."""
        if op != "insert" and self._decoder is not None:
            try:
                return self._decoder.decode(op, data, start, end, partial_json=partial_json)
            except (SchemaError, DecodeError) as error:
                self._undecoded = f"rows of its parent cannot be decoded: {error.message}"
        return Rows(self._without_rows, op, None, None)

    def _derive(self, rows: Rows, checks: bool) -> Sequence[Rows | Cascade]:
        if rows.before is not None:
            return self._parent.derive(rows, checks)
        return (
            self._parent.unknown(rows.op, self._undecoded) if checks and rows.op != "insert" else ()
        )


#: What decodes the rows after a table map.
Decoder = RowDecoder | UnfollowedParent


def inexact_reason(
    child: Table, key: ForeignKey, parent: Table | None, tables: Iterable[Table]
) -> str:
    """Why a target cannot do what the key does; empty if it can, or if the child or the parent is
    not followed. ``tables`` may have foreign keys that refer to the child.
    """
    if not child.columns or parent is None or not parent.columns:
        return ""
    try:
        compared = _comparisons(child, key, parent)
    except (KeyError, ValueError):
        return "its columns are not known"
    for reason in compared:
        if isinstance(reason, str):
            return reason
    if other := order_matters(child, tables):
        return f"what the foreign keys {other} do together depends on their order"
    only_deletes = key.on_delete != "set null" and key.on_update == "restrict"
    if not only_deletes and row_end(child) is not None:
        return "the table has a history"
    if not only_deletes and any(column.generated for column in child.columns):
        return "generated columns may be computed from its columns"
    return ""


def foldings(child: Table, key: ForeignKey, parent: Table | None) -> tuple[Folding | None, ...]:
    """How the key compares texts, by column; empty if it compares all values exactly."""
    if not child.columns or parent is None or not parent.columns:
        return ()
    found = _comparisons(child, key, parent)
    return tuple(map(_folding, found)) if any(found) else ()


def _folding(comparison: Comparison) -> Folding | None:
    return comparison if isinstance(comparison, Folding) else None


def _comparisons(child: Table, key: ForeignKey, parent: Table) -> list[Comparison]:
    return [
        comparison(child.columns[child.ordinal(mine)], parent.columns[parent.ordinal(its)])
        for mine, its in zip(key.columns, key.parent_columns, strict=True)
    ]
