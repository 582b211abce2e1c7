"""
The rules for a sink's rows: what the changes of the stream, and schema changes, make of them.
"""

from __future__ import annotations

import msgspec
import pytest

from engine.change import (
    Cascade,
    DeletePart,
    Folding,
    Replace,
    ReplaceColumns,
    ReplacePart,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.contract_suite.target import (
    CODE,
    ID,
    INT,
    KEYLESS,
    NOTE,
    TABLE,
    TEXT,
    A,
    B,
    C,
    Engine,
    Target,
    altered,
    create,
    delete,
    insert,
    rows_of,
    rule,
    update,
)
from engine.errors import UnloggedChange
from engine.schema import Column, ForeignKey, Part, Table, TableId

__all__ = ["DeletePartRules", "RowRules", "SchemaChangeRules"]


class RowRules:
    """Changes of live tables."""

    @rule()
    async def test_inserts_updates_and_deletes(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE))
            await engine.write(insert(A, B), insert(C), update((B, (2, "b", "now"))))
            assert rows_of(target, TABLE) == [A, (2, "b", "now"), C]
            await engine.write(delete(A), update((C, (3, None, None))))
        assert rows_of(target, TABLE) == [(2, "b", "now"), (3, None, None)]

    @rule()
    async def test_a_row_that_comes_and_goes_in_one_transaction(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            again = (1, "a", "again")
            await engine.write(insert(B), delete(A, B), insert(again), insert(B), delete(B))
        assert rows_of(target, TABLE) == [again]

    @rule()
    async def test_a_key_changes_and_keys_are_swapped(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A, B, C))
            changed = (9, "a", "first")
            await engine.write(update((A, changed)))
            parked, two, three = (-1, "b", None), (2, *C[1:]), (3, *B[1:])
            await engine.write(update((B, parked)), update((C, two)), update((parked, three)))
        assert rows_of(target, TABLE) == [two, three, changed]

    @rule()
    async def test_keys_change_along_a_chain(self, target: Target) -> None:
        rows = [(number, f"c{number}", None) for number in range(5)]
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(*rows))
            shifted = [(number + 1, code, note) for number, code, note in rows]
            await engine.write(update(*reversed(list(zip(rows, shifted, strict=True)))))
        assert rows_of(target, TABLE) == shifted

    @rule()
    async def test_unique_values_are_swapped(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A, B))
            free, a, b = (1, None, "first"), (1, "b", "first"), (2, "a", None)
            await engine.write(update((A, free)), update((B, b)), update((free, a)))
        assert rows_of(target, TABLE) == [a, b]

    @rule()
    async def test_a_unique_value_goes_to_another_row(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            await engine.write(delete(A), insert((7, "a", None)))
            await engine.write(update(((7, "a", None), (7, "z", None))), insert((8, "a", None)))
        assert rows_of(target, TABLE) == [(7, "z", None), (8, "a", None)]

    @rule()
    async def test_absent_columns_keep_their_values(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A, C))
            minimal = Rows(TABLE, "update", [(1, None, None)], [(1, None, "new")], 0b001, 0b101)
            await engine.write(minimal)
            await engine.write(Rows(TABLE, "delete", [(3, None, None)], None, 0b001))
        assert rows_of(target, TABLE) == [(1, "a", "new")]

    @rule()
    async def test_a_key_changes_in_a_partial_image(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            await engine.write(
                Rows(TABLE, "update", [(1, None, None)], [(5, None, None)], 0b001, 0b001)
            )
        assert rows_of(target, TABLE) == [(5, "a", "first")]

    @rule()
    async def test_truncate_empties_a_table_at_its_place_in_the_order(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            await engine.write(insert(B), Truncate(TABLE), insert(C))
        assert rows_of(target, TABLE) == [C]

    @rule()
    async def test_a_keyless_table_is_a_multiset(self, target: Target) -> None:
        x, y, z = ("x", None), ("y", "1"), ("z", "1")
        async with Engine(target) as engine:
            await engine.write(*create(KEYLESS), insert(x, x, x, y, table=KEYLESS))
            await engine.write(delete(x, table=KEYLESS))
            await engine.write(update((x, z), table=KEYLESS), insert(y, table=KEYLESS))
        assert rows_of(target, KEYLESS) == [x, y, y, z]

    @rule("cascades")
    async def test_foreign_keys_delete_and_change_rows_from_level_to_level(
        self, target: Target
    ) -> None:
        parent, child = TableId("contract_shop", "parent"), TableId("contract_shop", "child")
        up, reference = Column("up", INT, "int"), Column("p", INT, "int")
        of_parent = ForeignKey("f", ("p",), parent, ("id",), "cascade", "cascade")
        of_itself = ForeignKey("g", ("up",), child, ("id",), "cascade", "restrict")
        of_child = ForeignKey("h", ("p",), child, ("id",), "set null")
        one = Table(child, (ID, reference, up), (0,), foreign_keys=(of_parent, of_itself))
        two = Table(TableId("contract_shop", "leaf"), (reference,), foreign_keys=(of_child,))
        async with Engine(target) as engine:
            await engine.write(*create(one), *create(two))
            rows = (1, 10, None), (2, None, 1), (3, 20, 2), (4, 20, None), (5, None, None)
            await engine.write(insert(*rows, table=one), insert((1,), (3,), (3,), (4,), table=two))
            await engine.write(
                Cascade(parent, ("id",), [(10,)], None, (one, two)),
                insert((1, 10, None), table=one),
                Cascade(parent, ("id",), [(20,), (30,)], [(30,), (40,)], (one, two)),
            )
        assert rows_of(target, one) == [(1, 10, None), (4, 40, None), (5, None, None)]
        assert sorted(rows_of(target, two), key=str) == [(4,), (None,), (None,), (None,)]

    @rule("cascades")
    async def test_foreign_keys_compare_texts_as_the_source_does(self, target: Target) -> None:
        """Texts of which that is not known are refused, and change nothing."""
        parent, child = TableId("contract_shop", "parent"), TableId("contract_shop", "child")
        text = Column("p", TEXT, "varchar(20)")
        key = ForeignKey("f", ("p",), parent, ("code",), "cascade", "cascade")
        table = Table(child, (ID, text), (0,), foreign_keys=(key,))

        def cascade(value: str, new: str | None = None, *, spaces: bool = True) -> Cascade:
            after = None if new is None else [(new,)]
            folded = {(child, "f"): (Folding(case=True, spaces=spaces),)}
            return Cascade(parent, ("code",), [(value,)], after, (table,), folded=folded)

        async with Engine(target) as engine:
            rows = (1, "a"), (2, "A "), (3, "b"), (4, "B "), (5, None), (6, "c "), (7, "c")
            await engine.write(*create(table), insert(*rows, table=table))
            await engine.write(cascade("A"), cascade("b ", "d"), cascade("C", spaces=False))
            await engine.write(insert((8, "\u00e9"), table=table))
            with pytest.raises(UnloggedChange) as caught:
                await engine.write(cascade("e"))
            assert caught.value.id == child
        assert rows_of(target, table) == [
            *((3, "d"), (4, "d"), (5, None), (6, "c "), (8, "\u00e9"))
        ]

    @rule()
    async def test_drift_is_counted(self, target: Target) -> None:
        """The log's changes are applied all the same."""
        counted = int(target.counts_drift)
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), *create(KEYLESS), insert(A))
            assert (await engine.write(insert(B))).drift == {}
            for table, unexpected in (
                (TABLE, insert((1, "a", "other"))),
                (TABLE, delete(C)),
                (KEYLESS, delete(("x", None), table=KEYLESS)),
            ):
                assert (await engine.write(unexpected)).drift.get(table.id, 0) == counted
        assert rows_of(target, TABLE) == [(1, "a", "other"), B]


class DeletePartRules:
    """A part of the rows is removed, by the values of one column."""

    @rule("parts")
    async def test_a_part_of_the_rows_is_removed_at_its_place(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            again = (1, "again", None)
            between = DeletePart(TABLE, Part("id", ((1, 2), (7, 9))))
            await engine.write(insert(B), insert(C), between, insert(again))
            assert rows_of(target, TABLE) == [again, B, C]
            await engine.write(DeletePart(TABLE, Part("id", ((None, 3),))))
            assert rows_of(target, TABLE) == [C]
            await engine.write(DeletePart(TABLE, Part("id", ((3, None),))))
        assert rows_of(target, TABLE) == []

    @rule("parts")
    async def test_a_part_may_be_the_rows_with_a_text(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A), insert(B), insert(C))
            await engine.write(DeletePart(TABLE, Part("code", (), text=A[1])))
            assert rows_of(target, TABLE) == [B, C]

    @rule("parts")
    async def test_other_rows_take_the_place_of_a_part(self, target: Target) -> None:
        twin = msgspec.structs.replace(TABLE, id=TableId("contract_shop", "twin"))
        new = (2, "new", None)
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A), insert(B), insert(C))
            await engine.write(*create(twin), insert(new, table=twin))
            replace = ReplacePart(TABLE, twin, Part("id", ((2, None),)))
            await engine.write(replace, insert((7, "later", None)))
            with pytest.raises(KeyError):
                rows_of(target, twin)
            assert rows_of(target, TABLE) == [A, new, (7, "later", None)]
        state = await target.sink().state()
        assert state is not None
        assert state.tables == (TABLE,)

    @rule("columns")
    async def test_new_columns_get_the_values_of_a_twin(self, target: Target) -> None:
        empty = altered((ID, Column("more", INT, "int"), CODE, NOTE), indexes=())
        strict = Column("more", INT, "int", nullable=False, generated=True)
        after = altered((ID, strict, CODE, NOTE), indexes=())
        twin = msgspec.structs.replace(
            after.narrowed(["more"]), id=TableId("contract_shop", "twin")
        )
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A), insert(B))
            await engine.write(SchemaChange("", TABLE, empty), *create(twin))
            await engine.write(insert((1, 10), (2, 20), (9, 90), table=twin))
            replace = ReplaceColumns(empty, twin, after, ("more",))
            await engine.write(replace, insert((7, 70, "later", None), table=after))
            with pytest.raises(KeyError):
                rows_of(target, twin)
            rows = [(row[0], number, *row[1:]) for row, number in ((A, 10), (B, 20))]
            assert rows_of(target, after) == [*rows, (7, 70, "later", None)]
        state = await target.sink().state()
        assert state is not None
        assert state.tables == (after,)


class SchemaChangeRules:
    """Tables that are altered, renamed and dropped."""

    @rule("schema changes")
    async def test_a_column_is_added_in_the_middle_of_a_batch(self, target: Target) -> None:
        after = altered((ID, Column("more", INT, "int"), CODE, NOTE), indexes=())
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            await engine.write(
                insert(B), SchemaChange("", TABLE, after), insert((3, 7, "c", None), table=after)
            )
        expected = [(1, None, "a", "first"), (2, None, "b", None), (3, 7, "c", None)]
        assert rows_of(target, after) == expected
        state = await target.sink().state()
        assert state is not None
        assert state.tables == (after,)

    @rule("schema changes")
    async def test_existing_rows_get_the_value_of_a_new_column(self, target: Target) -> None:
        after = altered((*TABLE.columns, Column("more", TEXT, "varchar(20)")))
        filled = (("more", "computed"),)
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            change = SchemaChange("", TABLE, after, filled=filled)
            await engine.write(change, insert((*B, None), table=after))
        assert rows_of(target, after) == [(*A, "computed"), (*B, None)]

    @rule("schema changes")
    async def test_a_column_is_renamed_and_another_is_dropped(self, target: Target) -> None:
        after = altered((ID, Column("title", TEXT, "varchar(20)")))
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            change = SchemaChange("", TABLE, after, renamed=(("code", "title"),))
            await engine.write(change, insert((2, "b"), table=after))
        assert rows_of(target, after) == [(1, "a"), (2, "b")]

    @rule("schema changes")
    async def test_a_table_is_renamed_then_dropped(self, target: Target) -> None:
        after = msgspec.structs.replace(TABLE, id=TableId("contract_shop", "article"), version=2)
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            await engine.write(SchemaChange("", TABLE, after), insert(B, table=after))
            assert rows_of(target, after) == [A, B]
            with pytest.raises(KeyError):
                rows_of(target, TABLE)
            await engine.write(SchemaChange("", after, None))
            with pytest.raises(KeyError):
                rows_of(target, after)
        state = await target.sink().state()
        assert state is not None
        assert state.tables == ()

    @rule("schema changes")
    async def test_a_table_takes_the_place_of_another(self, target: Target) -> None:
        after = altered((ID, Column("more", INT, "int"), CODE), indexes=())
        twin = msgspec.structs.replace(after, id=TableId("contract_shop", "twin"))
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            await engine.write(*create(twin), insert((5, 1, "e"), table=twin))
            await engine.write(
                insert(B), Replace(TABLE, twin, after), insert((6, 2, "f"), table=after)
            )
            with pytest.raises(KeyError):
                rows_of(target, twin)
        assert rows_of(target, after) == [(5, 1, "e"), (6, 2, "f")]
        state = await target.sink().state()
        assert state is not None
        assert state.tables == (after,)
