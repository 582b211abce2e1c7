"""
The differences between what a target should have and what it has. Pure.

Columns and what belongs to one column are compared by name. Indexes, checks and foreign keys are
compared by their definitions first, so one that has another name on the target is no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from engine.structure import Item, ItemKind

__all__ = ["ORDER", "Difference", "differences"]

#: The kinds in the order in which they are shown and created: a foreign key may need an index.
ORDER: Final[tuple[ItemKind, ...]] = (
    *("table", "column", "key", "not null", "generated", "identity", "default", "comment"),
    *("sequence", "index", "check", "foreign key"),
    *("view", "trigger", "function", "procedure", "event"),
)
#: The kinds whose definition identifies them.
_BY_DEFINITION: Final = frozenset({"index", "check", "foreign key"})
#: The kinds that a statement replaces; of the others, a different one has to be dropped first.
_REPLACED: Final = frozenset({"default", "comment", "sequence"})

State = Literal["missing", "different", "unfinished", "extra", "unknown"]


class Difference(msgspec.Struct, frozen=True):
    """A difference. ``missing`` on the target, ``extra`` there, ``different`` on both sides, or
    ``unfinished``, such as an index that is not valid. ``unknown``: what the source has of a kind
    cannot be seen.

    ``statements`` remove it, in order. Without any, ``advice`` says what to do. ``note``: nothing
    is wrong, and the schemas count as equal.
    """

    kind: ItemKind
    table: str
    name: str
    state: State
    wanted: str = ""
    found: str = ""
    statements: tuple[str, ...] = ()
    advice: str = ""
    note: bool = False


def differences(wanted: Sequence[Item], existing: Sequence[Item]) -> list[Difference]:
    """The differences, ordered by table and kind."""
    found = [*_compare(wanted, existing)]
    return sorted(found, key=lambda it: (it.table, ORDER.index(it.kind), it.name))


def _compare(wanted: Sequence[Item], existing: Sequence[Item]) -> Iterator[Difference]:
    left = {(it.kind, it.table, it.name): it for it in existing}
    defined = {
        (it.kind, it.table, it.definition): (it.kind, it.table, it.name)
        for it in sorted(existing, key=lambda it: not it.unfinished)
        if it.kind in _BY_DEFINITION
    }
    pending: list[Item] = []
    for item in wanted:
        place = (item.kind, item.table, item.name)
        own = left.get(place)
        if own is not None and own.definition == item.definition:
            del left[place]
            yield from _unfinished(item, own)
            continue
        same = defined.get((item.kind, item.table, item.definition))
        if same is not None and same in left and not left[same].unfinished:
            del left[same]
        else:
            pending.append(item)
    for item in pending:  # those of another definition, after all that are equal
        own = left.pop((item.kind, item.table, item.name), None)
        if own is None:
            yield _difference(item, "missing", "", item.statements, item.advice)
        elif not item.by_name:
            yield _changed(item, own)
    for own in left.values():
        yield Difference(
            *(own.kind, own.table, own.name, "extra", "", own.definition),
            advice=own.advice,
            note=own.harmless,
        )


def _unfinished(item: Item, own: Item) -> Iterator[Difference]:
    if own.unfinished:
        yield _difference(item, "unfinished", own.definition, item.finish, item.advice)


def _changed(item: Item, own: Item) -> Difference:
    if own.unfinished and item.kind == "index":  # it holds nothing, so it can be built anew
        return _difference(item, "unfinished", own.definition, item.finish, item.advice)
    if item.kind in _REPLACED:
        return _difference(item, "different", own.definition, item.statements, item.advice)
    advice = item.advice
    if item.statements:
        advice = "drop it on the target; then it is missing, and can be created"
    return _difference(item, "different", own.definition, (), advice)


def _difference(
    item: Item, state: State, found: str, statements: tuple[str, ...], advice: str
) -> Difference:
    return Difference(
        *(item.kind, item.table, item.name, state, item.definition, found, statements),
        advice=advice,
        note=item.harmless,
    )
