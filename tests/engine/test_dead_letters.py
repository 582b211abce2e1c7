"""Rows that the target refuses are kept aside, and later changes of their keys wait."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import msgspec
import pytest

from engine.change import Begin, Change, Rows, SchemaChange, Truncate
from engine.checkpoint import Checkpoint
from engine.cli.inspect import _status
from engine.cli.main import main
from engine.cli.wiring import load_settings
from engine.commands import Letters, StoredCommand
from engine.contract import Applied
from engine.errors import ApplyError
from engine.pipeline.dead_letters import DeadLetters, letter_line
from engine.recovery import DeadLetter
from engine.schema import Column, Table, TableId, Type
from engine.settings.loader import ErrorSettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase
from tests.support.memory_pipeline import (
    ID,
    KEYED,
    KEYLESS,
    NAME,
    assert_mirrored,
    delete,
    insert,
    make_pipeline,
    run,
    update,
)

POLICY = ErrorSettings(on_error="dead_letter")
OTHER = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "other"))


class Refusing(MemorySink):
    """A target that refuses rows whose name is ``bad``."""

    refuses = True

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        for change in changes:
            rows = change.after or () if isinstance(change, Rows) else ()
            if self.refuses and any(row[1] == "bad" for row in rows):
                assert isinstance(change, Rows)
                raise ApplyError("the target refuses a row", table=change.table.id)
        return await super().apply(changes, in_backfill)


def mirror(database: MemoryDatabase, store: MemoryStore, *, refuses: bool = True) -> None:
    sink = Refusing(store)
    sink.refuses = refuses
    pipeline = make_pipeline(database, store, sink=sink, errors=POLICY)
    run(pipeline, until_caught_up=True)
    assert {it.state for it in pipeline.status().tables} == {"live"}


def mirrored(*tables: Table) -> tuple[MemoryDatabase, MemoryStore]:
    database, store = MemoryDatabase(), MemoryStore()
    for table in tables:
        database.load(table, [(number, "old") for number in range(9)])
    mirror(database, store)
    return database, store


def open_letters(store: MemoryStore) -> list[DeadLetter]:
    return [letter for _, letter in store.letters if letter.outcome is None]


def command(store: MemoryStore, action: Literal["retry", "discard"], *ids: int) -> None:
    text = msgspec.json.encode(Letters(action, ids, not ids)).decode()
    number = len(store.commands) + 1
    store.commands.append(("test", StoredCommand(number, text, "ann", 0.0)))


def write_config(folder: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of the pipeline, whose target is ``store``."""
    monkeypatch.setitem(MemoryStore.named, "memory:letters", store)
    config = folder / "shop.toml"
    config.write_text(
        '[pipeline]\nname = "test"\n[source]\nurl = "memory:letters"\n'
        '[sink]\nurl = "memory:letters"\n'
    )
    return config


def test_a_refused_row_is_alone_and_later_changes_of_its_key_wait() -> None:
    database, store = mirrored(KEYED, OTHER)
    database.commit(
        insert(KEYED, *((number, "new") for number in range(20, 30))),
        update(KEYED, (3, "old"), (3, "bad")),
        update(KEYED, (4, "old"), (4, "new")),
        insert(OTHER, (50, "bad")),
    )
    database.commit(update(KEYED, (3, "bad"), (3, "good")), insert(OTHER, (51, "x")))
    database.commit(delete(KEYED, (5, "old")), update(KEYED, (3, "good"), (33, "good")))
    database.commit(update(KEYED, (33, "good"), (33, "better")))
    mirror(database, store)
    letters = open_letters(store)
    assert [(it.table.name, it.operation, it.key) for it in letters] == [
        ("keyed", "update", "[3]"),
        ("other", "insert", "[50]"),
        ("keyed", "update", "[3]"),
        ("keyed", "update", "[33]"),
        ("keyed", "update", "[33]"),
    ]
    assert letters[0].message == "the target refuses a row"
    assert "waits behind" in letters[2].message
    rows = dict(store.rows(KEYED.id))  # type: ignore[arg-type]
    assert rows[3] == "old"
    assert rows[4] == "new"
    assert 5 not in rows
    assert [rows[number] for number in range(20, 30)] == ["new"] * 10

    command(store, "retry")
    mirror(database, store)  # still refused: nothing of these keys moves
    assert dict(store.rows(KEYED.id))[3] == "old"  # type: ignore[arg-type]
    assert len(open_letters(store)) == 5
    command(store, "retry")
    mirror(database, store, refuses=False)
    assert open_letters(store) == []
    assert_mirrored(database, store)


def test_a_letter_is_discarded_and_the_next_ones_go_on() -> None:
    database, store = mirrored(KEYED)
    database.commit(insert(KEYED, (50, "bad")), insert(KEYED, (51, "bad")))
    database.commit(update(KEYED, (50, "bad"), (50, "good")))
    mirror(database, store)
    first, second, third = open_letters(store)
    command(store, "discard", first.id)
    command(store, "retry", third.id)
    mirror(database, store)
    rows = dict(store.rows(KEYED.id))  # type: ignore[arg-type]
    assert rows[50] == "good"
    assert [letter.id for letter in open_letters(store)] == [second.id]
    database.commit(insert(KEYED, (60, "after")))
    mirror(database, store)
    assert 60 in dict(store.rows(KEYED.id))  # type: ignore[arg-type]


def test_only_letters_that_were_counted_are_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names the letters that were counted, so that one that comes before the engine
    executes it stays open."""
    database, store = mirrored(KEYED)
    database.commit(insert(KEYED, (50, "bad")))
    mirror(database, store)
    config = write_config(tmp_path, store, monkeypatch)
    assert main(["dead-letters", str(config), "discard", "--yes"]) == 0
    assert "changes that are discarded: 1." in capsys.readouterr().out
    ((_, stored),) = store.commands
    assert msgspec.json.decode(stored.command, type=Letters).ids == (open_letters(store)[0].id,)


@pytest.mark.parametrize("table", [KEYED, KEYLESS], ids=["keyed", "keyless"])
def test_a_backfill_keeps_refused_rows_aside(table: Table) -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(table, [(n, "bad" if n in (3, 7) else "old") for n in range(12)])
    mirror(database, store)
    assert {it.operation for it in open_letters(store)} == {"read"}
    assert sorted(row[0] for row in store.rows(table.id)) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    command(store, "retry")
    mirror(database, store, refuses=False)
    assert_mirrored(database, store)


def test_a_change_of_all_rows_has_the_table_read_again() -> None:
    database, store = mirrored(KEYED)
    wider = Table(KEYED.id, (ID, NAME, Column("code", Type("int32"), "int")), (0,), version=2)
    database.commit(insert(KEYED, (50, "bad")))
    database.commit(SchemaChange("ALTER", KEYED, wider))
    database.commit(update(wider, (50, "bad", None), (50, "good", 1)))
    mirror(database, store)
    assert open_letters(store) == []
    assert_mirrored(database, store)


def test_a_table_of_which_most_rows_are_refused_is_quarantined() -> None:
    database, store = mirrored(KEYED, OTHER)
    database.commit(insert(KEYED, *((number, "bad") for number in range(100, 1300))))
    database.commit(insert(OTHER, (50, "bad")), insert(OTHER, (51, "x")))
    pipeline = make_pipeline(database, store, sink=Refusing(store), errors=POLICY)
    run(pipeline, until_caught_up=True)
    assert [it.state for it in pipeline.status().tables] == ["quarantined", "live"]
    assert [letter.table for letter in open_letters(store)] == [OTHER.id]
    assert 51 in dict(store.rows(OTHER.id))  # type: ignore[arg-type]


def test_a_table_of_which_a_row_changes_all_the_time_is_quarantined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.pipeline.dead_letters.MOST_LETTERS", 20)
    database, store = mirrored(KEYED, OTHER)
    database.commit(update(KEYED, (3, "old"), (3, "bad")))
    for _ in range(30):
        database.commit(update(KEYED, (3, "bad"), (3, "bad")))
    database.commit(insert(OTHER, (51, "x")))
    pipeline = make_pipeline(database, store, sink=Refusing(store), errors=POLICY)
    run(pipeline, until_caught_up=True)
    assert [it.state for it in pipeline.status().tables] == ["quarantined", "live"]
    assert open_letters(store) == []
    assert 51 in dict(store.rows(OTHER.id))  # type: ignore[arg-type]


def test_a_table_with_large_letters_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    """All open letters are read at the start of an attempt, so their bytes are bounded."""
    monkeypatch.setattr("engine.pipeline.dead_letters.MOST_BYTES", 100)
    database, store = mirrored(KEYED, OTHER)
    database.commit(insert(OTHER, (50, "bad")))
    database.commit(*(insert(KEYED, (number, "bad")) for number in range(50, 80)))
    pipeline = make_pipeline(database, store, sink=Refusing(store), errors=POLICY)
    run(pipeline, until_caught_up=True)
    assert [it.state for it in pipeline.status().tables] == ["quarantined", "live"]
    assert [letter.table for letter in open_letters(store)] == [OTHER.id]


def test_a_letter_of_a_large_transaction_has_its_position() -> None:
    """GIVEN a transaction that is applied in two batches WHEN a row of the second is refused THEN
    its letter has the position of the transaction, and one of a backfill has none."""

    async def apply(changes: Sequence[Change]) -> int:
        if any(isinstance(change, Rows) for change in changes):
            raise ApplyError("the target refuses a row", table=KEYED.id)
        return 0

    async def positions() -> list[str]:
        sink = Refusing(MemoryStore())
        await sink.open()
        letters = DeadLetters("test", sink, POLICY, lambda position: position and f"at {position}")
        letters.guarded.add(KEYED.id)
        await letters.apply([Begin("1", "7", 0.0), insert(KEYED, (1, "bad"))], apply)
        await letters.apply([insert(KEYED, (2, "bad"))], apply)
        await letters.apply([Rows(KEYED, "read", None, [(3, "bad")])], apply)
        return [letter.position for letter in await sink.dead_letters()]

    assert asyncio.run(positions()) == ["at 7", "at 7", ""]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (Truncate(KEYED), "the table was emptied"),
        (SchemaChange("DROP TABLE keyed", KEYED, None), "the table was dropped"),
    ],
    ids=["truncate", "drop"],
)
def test_a_table_that_is_emptied_or_dropped_has_no_open_letters(
    change: Change, outcome: str
) -> None:
    """GIVEN a table with a dead letter WHEN all of its rows are gone THEN the letter is closed, in
    the same attempt, and the status counts none."""
    database, store = mirrored(KEYED, OTHER)
    database.commit(insert(KEYED, (50, "bad")))
    database.commit(change)
    if isinstance(change, Truncate):
        database.commit(insert(KEYED, (50, "new")))
    pipeline = make_pipeline(database, store, sink=Refusing(store), errors=POLICY)
    run(pipeline, until_caught_up=True)
    assert [letter.outcome for _, letter in store.letters] == [outcome]
    assert pipeline.status().dead_letters == 0
    assert {it.dead_letters for it in pipeline.status().tables} == {0}
    assert_mirrored(database, store)


@pytest.mark.parametrize("on_error", ["quarantine", "dead_letter"])
@pytest.mark.parametrize("how", ["dropped", "renamed", "renamed before"])
def test_a_refused_row_and_a_change_of_its_tables_name_in_one_batch(
    how: str, on_error: Literal["quarantine", "dead_letter"]
) -> None:
    """GIVEN a batch in which a table loses its name WHEN the target refuses a row of it THEN the
    error concerns the table under the name of the checkpoint, and the others go on."""
    database, store = mirrored(KEYED, OTHER)
    renamed = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "renamed"))
    rename = SchemaChange("a statement", KEYED, None if how == "dropped" else renamed)
    if how == "renamed before":
        database.commit(rename, insert(renamed, (50, "bad")), insert(OTHER, (60, "new")))
    else:
        database.commit(insert(KEYED, (50, "bad")), rename, insert(OTHER, (60, "new")))
    errors = ErrorSettings(on_error=on_error)
    pipeline = make_pipeline(database, store, sink=Refusing(store), errors=errors)
    run(pipeline, until_caught_up=True)
    states = {it.table: it.state for it in pipeline.status().tables}
    assert states.pop("shop.other") == "live"
    if on_error == "quarantine":
        assert states.pop("shop.keyed") == "quarantined"
        assert set(states.values()) <= {"quarantined"}
    else:
        assert states == ({} if how == "dropped" else {"shop.renamed": "live"})
        assert {it.table for it in open_letters(store)} == ({renamed.id} if states else set())
    assert (60, "new") in store.rows(OTHER.id)


def test_a_closed_letter_keeps_no_values() -> None:
    """GIVEN letters of a table with a key and of one without WHEN they are closed THEN they stay as
    a record without images, and the values of a row without a key are nowhere in it."""
    database, store = mirrored(KEYED, KEYLESS)
    database.commit(insert(KEYED, (50, "bad")), insert(KEYLESS, (51, "bad")))
    mirror(database, store)
    assert all(letter.images for letter in open_letters(store))
    first, _ = open_letters(store)
    command(store, "discard", first.id)
    command(store, "retry")
    mirror(database, store, refuses=False)
    closed = [letter for _, letter in store.letters]
    assert [(it.key, it.images, it.outcome) for it in closed] == [
        ("[50]", b"", "discarded by ann"),
        ("[]", b"", "applied"),
    ]
    line = letter_line(closed[0], values=True)
    assert "insert [50]" in line
    assert line.count(closed[0].error) == 1
    assert "insert (no key)" in letter_line(closed[1], values=True)


def test_a_table_is_guarded_as_long_as_it_has_letters() -> None:
    """GIVEN a table whose letters are closed WHEN its rows are applied again THEN they are not
    applied apart any more, also if the letters are closed while the engine runs."""

    async def guarded() -> list[set[TableId]]:
        store = MemoryStore()
        sink = Refusing(store)
        await sink.open()
        letters = DeadLetters("test", sink, POLICY)
        found = []
        for close in ("supersede", "discard"):
            assert letters.guard(ApplyError("refused", table=KEYED.id), KEYED.id)
            await letters.load([KEYED])
            found.append(set(letters.guarded))  # refused, and no letter yet
            await letters._add(insert(KEYED, (1, "bad")), "7", ApplyError("refused"))
            await sink.commit(Checkpoint("test", 1, "7"))
            await letters.load([KEYED])
            found.append(set(letters.guarded))
            if close == "supersede":
                await letters.supersede(KEYED.id, "left")
            else:
                await letters.discard(letters.open, "ann")
            await sink.commit(Checkpoint("test", 1, "7"))
            await letters.load([KEYED])
            found.append(set(letters.guarded))
        return found

    assert asyncio.run(guarded()) == [{KEYED.id}, {KEYED.id}, set()] * 2


def test_numbers_of_letters_that_are_not_open_are_named() -> None:
    """GIVEN a command with numbers WHEN no open letter has one THEN the outcome names it, and
    the command is refused if no letter is left."""
    database, store = mirrored(KEYED)
    database.commit(insert(KEYED, (50, "bad")))
    mirror(database, store)
    command(store, "discard", 1, 98)
    command(store, "retry", 1, 99)
    mirror(database, store)
    assert [(it.outcome, it.refused) for _, it in store.commands] == [
        ("dead letters discarded: 1; no open dead letter has the number 98", False),
        ("no open dead letter has the number 1, 99", True),
    ]


@pytest.mark.parametrize("action", ["list", "show", "retry", "discard"])
def test_the_command_refuses_unknown_numbers(
    action: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database, store = mirrored(KEYED)
    database.commit(insert(KEYED, (50, "bad")), insert(KEYED, (51, "bad")))
    mirror(database, store)
    command(store, "discard", 1)
    mirror(database, store)
    config = write_config(tmp_path, store, monkeypatch)
    assert main(["dead-letters", str(config), action, "1", "2", "99"]) == 2
    numbers = "99" if action == "show" else "1, 99"
    assert f"has the number {numbers}" in capsys.readouterr().err
    assert len(store.commands) == 1


def test_the_tables_and_the_status_count_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN a table with dead letters THEN the status of the engine and ``tailrace tables`` count
    them, and name the command that shows them."""
    database, store = mirrored(KEYED, OTHER)
    database.commit(insert(KEYED, (50, "bad")), insert(KEYED, (51, "bad")))
    pipeline = make_pipeline(database, store, sink=Refusing(store), errors=POLICY)
    run(pipeline, until_caught_up=True)
    status = pipeline.status()
    assert status.dead_letters == 2
    assert [it.dead_letters for it in status.tables] == [2, 0]
    assert status.tables[0].remedy.startswith("`tailrace dead-letters")
    folder = tmp_path / ("long_" * 20)  # a command is not folded
    folder.mkdir()
    config = write_config(folder, store, monkeypatch)
    assert main(["tables", str(config)]) == 3
    shown = capsys.readouterr().out
    assert "dead letters: 2" in shown
    assert f"tailrace dead-letters {config} list" in shown
    assert asyncio.run(_status(load_settings(config), "")).dead_letters == 2
    command(store, "discard")
    mirror(database, store)
    assert main(["tables", str(config)]) == 0
    assert "dead letters" not in capsys.readouterr().out


@pytest.mark.parametrize("table", [KEYED, KEYLESS], ids=["keyed", "keyless"])
@pytest.mark.parametrize("seed", range(25))
def test_random_histories_are_equal_after_a_retry(table: Table, seed: int) -> None:
    random = Random(seed)
    database, store = mirrored(table)
    rows: list[tuple[int, str]] = [(number, "old") for number in range(9)]
    for _ in range(random.randrange(5, 60)):
        name = random.choice(["bad", "good", "better"])
        free = next(n for n in range(9, 99) if n not in dict(rows))
        place = random.randrange(len(rows)) if rows else None
        match random.randrange(4):
            case 0:
                rows.append((free, name))
                database.commit(insert(table, rows[-1]))
            case 1 if place is not None:
                database.commit(delete(table, rows.pop(place)))
            case kind if place is not None:
                before, after = rows[place], (free if kind == 2 else rows[place][0], name)
                rows[place] = after
                database.commit(update(table, before, after))
        if random.random() < 0.1:
            mirror(database, store)
    mirror(database, store)
    kept = {row[0]: row[1] for row in store.rows(table.id)}
    waiting = {key for letter in open_letters(store) for key in msgspec.json.decode(letter.key)}
    assert all(name != "bad" for name in kept.values())
    if table.key:
        assert {n: name for n, name in rows if n not in waiting}.items() <= kept.items()
    command(store, "retry")
    mirror(database, store, refuses=False)
    assert open_letters(store) == []
    assert_mirrored(database, store)
