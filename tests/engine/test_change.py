"""Which row changes may be joined to one ``Rows``."""

from __future__ import annotations

import msgspec

from engine.change import JOINED_BYTES, Rows
from engine.schema import Column, Table, TableId, Type

ITEM = Table(TableId("shop", "item"), (Column("id", Type("int32"), "int"),), (0,))
UPDATE = Rows(ITEM, "update", [(1,)], [(2,)], None, None, 10)


def following(**changes: object) -> Rows:
    rows = Rows(ITEM, "update", [(3,)], [(4,)], None, None, 7)
    return msgspec.structs.replace(rows, **changes)


def test_rows_of_the_same_table_operation_and_columns_are_joined() -> None:
    rows = msgspec.structs.replace(UPDATE, before=[(1,)], after=[(2,)])
    assert rows.join(following())
    assert rows == Rows(ITEM, "update", [(1,), (3,)], [(2,), (4,)], None, None, 17)
    inserts = Rows(ITEM, "insert", None, [(1,)])
    assert inserts.join(Rows(ITEM, "insert", None, [(2,)]))
    assert (inserts.before, inserts.after, len(inserts)) == (None, [(1,), (2,)], 2)


def test_other_rows_are_not_joined() -> None:
    version = msgspec.structs.replace(ITEM, version=2)
    others = (
        following(table=version),
        following(op="delete", after=None),
        following(before_present=1),
        following(after_present=1),
    )
    for other in others:
        rows = msgspec.structs.replace(UPDATE)
        assert not rows.join(other)
        assert rows == UPDATE


def test_rows_are_joined_up_to_a_size() -> None:
    rows = Rows(ITEM, "insert", None, [(1,)], size=JOINED_BYTES - 1)
    assert rows.join(Rows(ITEM, "insert", None, [(2,)], size=1))
    assert not rows.join(Rows(ITEM, "insert", None, [(3,)], size=1))
    assert (rows.after, rows.size) == ([(1,), (2,)], JOINED_BYTES)
