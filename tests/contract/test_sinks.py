"""
The contract of a sink (``engine.contract.Sink``), run against every registered one.

The idea: each test knows only the protocol and, to look at the result, ``Target.rows``. A new sink
gets an adapter here, of ten lines, and has to pass everything.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psycopg
import pytest
from psycopg import sql

from engine.change import (
    Begin,
    CaughtUp,
    Change,
    Commit,
    Heartbeat,
    Row,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Applied, Sink, State
from engine.errors import Fenced, SinkLost
from engine.schema import Column, Index, Table, TableId, Type
from engine.settings import registry
from engine.toolkit.memory_table import MemoryTable
from engine.toolkit.record import Record, decode_image, decode_record
from sinks import SINKS
from tests.support.faults import FailAfter, FaultySink, Hold, Late, Reject

PIPELINE = "contract"
DEADLINE_SECONDS = 60
INT = Type("int32")
TEXT = Type("text")
ID = Column("id", INT, "int", nullable=False)
CODE = Column("code", TEXT, "varchar(20)")
NOTE = Column("note", TEXT, "text")
TABLE = Table(
    TableId("contract_shop", "item"),
    (ID, CODE, NOTE),
    key=(0,),
    indexes=(Index("by_code", (1,), unique=True),),
)
KEYLESS = Table(TableId("contract_shop", "bag"), (CODE, NOTE))


class Target(Protocol):
    """One empty place to write to."""

    #: Whether ``apply`` sees that a change met another row than expected.
    sees_drift: bool

    def sink(self) -> Sink:
        """A new sink on this place, as a new engine would make it."""
        ...

    def rows(self, table: Table) -> list[Row]:
        """The committed rows, sorted; nulls as None. KeyError if there is no such table."""
        ...


class MemoryTarget:
    sees_drift = True

    def __init__(self) -> None:
        from sinks.memory import MemoryStore

        self.store = MemoryStore()

    def sink(self) -> Sink:
        from sinks.memory import MemorySink, MemorySinkSettings

        return MemorySink(MemorySinkSettings("memory:contract"), PIPELINE, self.store)

    def rows(self, table: Table) -> list[Row]:
        return in_order(self.store.rows(table.id))


class JsonlTarget:
    """Every commit finishes a segment; the finished segments are replayed."""

    sees_drift = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sink(self) -> Sink:
        from sinks.jsonl import JsonlSettings, JsonlSink

        settings = JsonlSettings(f"jsonl:{self.folder}", segment_seconds=0)
        return JsonlSink(settings, PIPELINE)

    def rows(self, table: Table) -> list[Row]:
        tables: dict[tuple[str, str], MemoryTable] = {}
        for segment in sorted(self.folder.glob("*.jsonl")):
            for line in segment.read_bytes().splitlines():
                replay(decode_record(line), tables)
        return in_order(tables[table.id.schema, table.id.name])


class PostgresTarget:
    sees_drift = True

    def __init__(self, url: str) -> None:
        self.url = url

    def sink(self) -> Sink:
        from sinks.postgres.settings import PostgresSettings
        from sinks.postgres.sink import PostgresSink

        return PostgresSink(PostgresSettings(url=self.url, timeout_seconds=10.0), PIPELINE)

    def rows(self, table: Table) -> list[Row]:
        with psycopg.connect(self.url) as connection:
            columns = sql.SQL(", ").join(map(sql.Identifier, table.names))
            name = sql.Identifier(table.id.schema, table.id.name)
            try:
                query = sql.SQL("SELECT {} FROM {}").format(columns, name)
                return in_order(connection.execute(query).fetchall())
            except psycopg.errors.UndefinedTable as error:
                raise KeyError(table.id) from error


def replay(record: Record, tables: dict[tuple[str, str], MemoryTable]) -> None:
    """Do what a reader of records has to do."""
    name = (record.schema, record.table)
    if isinstance(record.definition, msgspec.UnsetType):
        contents = tables[name]
        if record.op == "truncate":
            contents.clear()
        else:
            contents.apply(rows_of(record, contents.table))
        return
    previous, after = record.definition.previous, record.definition.table
    old = tables.pop((previous.schema, previous.name) if previous else name, None)
    if after is not None:
        new = MemoryTable(after) if old is None else old.altered(after, record.definition.renamed)
        tables[name] = new


def rows_of(record: Record, table: Table) -> Rows:
    """The change of which the record was made."""
    images = [
        None if image is None else [decode_image(table, image)]
        for image in (record.before, record.after)
    ]
    masks = [
        None
        if image is None or len(image) == len(table.columns)
        else sum(1 << table.ordinal(name) for name in image)
        for image in (record.before, record.after)
    ]
    assert record.op in ("insert", "update", "delete", "read")
    return Rows(table, record.op, *images, *masks)  # type: ignore[arg-type]


def in_order(rows: Any) -> list[Row]:
    return sorted(rows, key=lambda row: [(value is None, value) for value in row])


def memory_target(request: pytest.FixtureRequest, folder: Path) -> Target:
    return MemoryTarget()


def jsonl_target(request: pytest.FixtureRequest, folder: Path) -> Target:
    return JsonlTarget(folder / "records")


def postgres_target(request: pytest.FixtureRequest, folder: Path) -> Target:
    return PostgresTarget(request.getfixturevalue("target_database"))


#: How to make a place for each registered class.
ADAPTERS: dict[str, Callable[[pytest.FixtureRequest, Path], Target]] = {
    "sinks.memory:MemorySink": memory_target,
    "sinks.jsonl:JsonlSink": jsonl_target,
    "sinks.postgres.sink:PostgresSink": postgres_target,
}


@pytest.fixture(params=sorted(ADAPTERS), ids=lambda name: name.split(":")[1])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return ADAPTERS[request.param](request, tmp_path)


Test = Callable[[Target], Awaitable[None]]


def contract(test: Test) -> Callable[[Target], None]:
    """An asynchronous test of a target, with a deadline."""

    @functools.wraps(test)
    def run(target: Target) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await test(target)

        asyncio.run(bounded())

    return run


class Engine:
    """An engine at work on a target: it counts epochs and positions."""

    def __init__(self, target: Target, sink: Sink | None = None) -> None:
        self.sink = sink or target.sink()
        self.epoch = 0
        self.position = 0

    async def __aenter__(self) -> Engine:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sink.close()

    async def open(self, epoch: int | None = None) -> State:
        state = await self.sink.open(epoch)
        self.epoch = state.epoch
        self.position = int(state.checkpoint.position) if state.checkpoint else 0
        return state

    async def apply(self, *changes: Change, in_backfill: Sequence[Table] = ()) -> Applied:
        return await self.sink.apply(list(changes), {table.id for table in in_backfill})

    async def commit(self, **snapshot: TableProgress) -> None:
        self.position += 1
        progress = {TableId("contract_shop", name): value for name, value in snapshot.items()}
        await self.sink.commit(Checkpoint(PIPELINE, self.epoch, str(self.position), 1.5, progress))

    async def write(self, *changes: Change, in_backfill: Sequence[Table] = ()) -> Applied:
        """One transaction of the source, in one of the target."""
        begin = Begin(str(self.position + 1), str(self.position), 1.5)
        end = Commit(str(self.position + 1), 1.5)
        applied = await self.apply(begin, *changes, end, in_backfill=in_backfill)
        await self.commit()
        return applied


def create(table: Table) -> list[Change]:
    return [SchemaChange("CREATE", None, table), CaughtUp(table)]


def insert(*rows: Row, table: Table = TABLE) -> Rows:
    return Rows(table, "insert", None, list(rows))


def read(*rows: Row, table: Table = TABLE) -> Rows:
    return Rows(table, "read", None, list(rows))


def delete(*rows: Row, table: Table = TABLE) -> Rows:
    return Rows(table, "delete", list(rows), None)


def update(*pairs: tuple[Row, Row], table: Table = TABLE) -> Rows:
    return Rows(table, "update", [old for old, _ in pairs], [new for _, new in pairs])


def altered(columns: tuple[Column, ...], **changes: Any) -> Table:
    return msgspec.structs.replace(TABLE, columns=columns, version=2, **changes)


A, B, C = (1, "a", "first"), (2, "b", None), (3, "c", "häß ☃ 'x' \\ \t")


def test_every_registered_sink_is_here() -> None:
    assert set(SINKS.values()) == set(ADAPTERS)
    for scheme in SINKS:
        assert issubclass(registry.load(scheme, SINKS, "tailrace.sinks").Settings, msgspec.Struct)


# -- state, epochs, fencing ------------------------------------------------------------------------


@contract
async def test_nothing_is_stored_before_the_first_open(target: Target) -> None:
    assert await target.sink().state() is None


@contract
async def test_each_open_takes_a_higher_epoch(target: Target) -> None:
    async with Engine(target) as first, Engine(target) as second:
        assert second.epoch > first.epoch > 0
        state = await target.sink().state()
        assert state == State(second.epoch, None, ())


@contract
async def test_an_engine_that_lost_its_connection_keeps_its_epoch(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        epoch = engine.epoch
        await engine.sink.close()
        state = await engine.open(epoch)
        assert state.epoch == epoch
        assert state.checkpoint is not None
        assert state.checkpoint.position == "1"
        await engine.write(insert(B))
    assert target.rows(TABLE) == [A, B]


@contract
async def test_an_older_engine_is_fenced_and_changes_nothing(target: Target) -> None:
    async with Engine(target) as old:
        await old.write(*create(TABLE), insert(A))
        async with Engine(target) as new:
            await old.apply(insert(B))
            with pytest.raises(Fenced):
                await old.commit()
            await new.write(insert(C))
        assert target.rows(TABLE) == [A, C]
        await old.sink.close()
        with pytest.raises(Fenced):
            await old.sink.open(old.epoch)
    state = await target.sink().state()
    assert state is not None
    assert state.checkpoint is not None
    assert (state.checkpoint.position, state.checkpoint.epoch) == ("2", new.epoch)


@contract
async def test_the_checkpoint_comes_back_as_it_was_stored(target: Target) -> None:
    progress = {
        "item": TableProgress("backfilling", '["k", 1]', 10, 100, "77"),
        "bag": TableProgress("pending", estimate=5),
    }
    async with Engine(target) as engine:
        await engine.apply(*create(TABLE), *create(KEYLESS))
        await engine.commit(**progress)
        expected = Checkpoint(
            *(PIPELINE, engine.epoch, "1", 1.5),
            {TableId("contract_shop", name): value for name, value in progress.items()},
        )
    state = await target.sink().state()
    assert state is not None
    assert state.checkpoint == expected
    assert set(state.tables) == {TABLE, KEYLESS}
    async with Engine(target) as engine:
        assert engine.position == 1


@contract
async def test_a_position_moves_without_rows(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE))
        await engine.apply(Heartbeat("2", 1.5))
        await engine.commit()
        await engine.commit()
    state = await target.sink().state()
    assert state is not None
    assert state.checkpoint is not None
    assert state.checkpoint.position == "3"


@contract
async def test_a_sink_may_be_closed_twice_and_opened_again(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.sink.close()
        await engine.sink.close()
        await engine.open()
        await engine.write(*create(TABLE), insert(A))
    assert target.rows(TABLE) == [A]


# -- transactions ----------------------------------------------------------------------------------


@contract
async def test_what_is_not_committed_is_gone(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        await engine.apply(insert(B), delete(A))
        assert target.rows(TABLE) == [A]
    async with Engine(target) as engine:
        assert engine.position == 1
    assert target.rows(TABLE) == [A]


@contract
async def test_rollback_forgets_rows_and_schema_changes(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        more = altered((*TABLE.columns, Column("more", TEXT, "text")))
        await engine.apply(SchemaChange("", TABLE, more), insert((2, "b", "x", "y"), table=more))
        await engine.sink.rollback()
        await engine.sink.rollback()
        await engine.write(insert(B))
    state = await target.sink().state()
    assert state is not None
    assert state.tables == (TABLE,)
    assert target.rows(TABLE) == [A, B]


@contract
async def test_a_commit_whose_answer_is_lost_is_read_back(target: Target) -> None:
    sink = FaultySink(target.sink())
    async with Engine(target, sink) as engine:
        await engine.write(*create(KEYLESS), insert(("x", None), table=KEYLESS))
        sink.plan("commit", FailAfter())
        await engine.apply(insert(("y", None), table=KEYLESS))
        with pytest.raises(SinkLost):
            await engine.commit()
        await engine.open(engine.epoch)
        assert engine.position == 2
    assert target.rows(KEYLESS) == [("x", None), ("y", None)]


@contract
async def test_a_commit_that_never_arrived_left_nothing(target: Target) -> None:
    sink = FaultySink(target.sink())
    async with Engine(target, sink) as engine:
        await engine.write(*create(KEYLESS), insert(("x", None), table=KEYLESS))
        sink.plan("commit", Reject())
        await engine.apply(insert(("y", None), table=KEYLESS))
        with pytest.raises(SinkLost):
            await engine.commit()
        await engine.open(engine.epoch)
        assert engine.position == 1
        await engine.write(insert(("y", None), table=KEYLESS))
    assert target.rows(KEYLESS) == [("x", None), ("y", None)]


@contract
async def test_a_commit_that_comes_after_a_takeover_is_fenced(target: Target) -> None:
    sink = FaultySink(target.sink())
    async with Engine(target, sink) as old:
        await old.write(*create(KEYLESS), insert(("x", None), table=KEYLESS))
        late = Late()
        sink.plan("commit", late)
        await old.apply(insert(("old", None), table=KEYLESS))
        commit = asyncio.ensure_future(old.commit())
        await late.reached.wait()
        async with Engine(target) as new:
            late.release.set()
            with pytest.raises(Fenced):
                await commit
            assert new.position == 1
            await new.write(insert(("new", None), table=KEYLESS))
    assert target.rows(KEYLESS) == [("new", None), ("x", None)]


@contract
async def test_a_takeover_sees_a_commit_whose_answer_is_on_its_way(target: Target) -> None:
    sink = FaultySink(target.sink())
    async with Engine(target, sink) as old:
        await old.write(*create(KEYLESS))
        held = Hold()
        sink.plan("commit", held)
        await old.apply(insert(("x", None), table=KEYLESS))
        commit = asyncio.ensure_future(old.commit())
        await held.reached.wait()
        async with Engine(target) as new:
            assert new.position == 2
        held.release.set()
        await commit
    assert target.rows(KEYLESS) == [("x", None)]


@contract
async def test_a_big_transaction_arrives_in_pieces(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE))
        rows: list[Row] = [(number, f"c{number}", None) for number in range(3000)]
        await engine.apply(Begin("2", "1", 1.5), insert(*rows[:1500]))
        await engine.apply(insert(*rows[1500:]), delete(*rows[:10]))
        moved = [(row, (row[0] + 10_000, row[1], "moved")) for row in rows[10:20]]
        await engine.apply(update(*moved), Commit("2", 1.5))
        assert target.rows(TABLE) == []
        await engine.commit()
    assert target.rows(TABLE) == [*rows[20:], *(new for _, new in moved)]


# -- rows ------------------------------------------------------------------------------------------


@contract
async def test_inserts_updates_and_deletes(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE))
        applied = await engine.write(insert(A, B), insert(C), update((B, (2, "b", "now"))))
        kinds = {op: applied.rows.get((TABLE.id, op)) for op in ("insert", "update", "delete")}
        assert kinds == {"insert": 3, "update": 1, "delete": None}
        await engine.write(delete(A), update((C, (3, None, None))))
    assert target.rows(TABLE) == [(2, "b", "now"), (3, None, None)]


@contract
async def test_a_row_that_comes_and_goes_in_one_transaction(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        again = (1, "a", "again")
        await engine.write(insert(B), delete(A, B), insert(again), insert(B), delete(B))
    assert target.rows(TABLE) == [again]


@contract
async def test_a_key_moves_and_keys_are_swapped(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A, B, C))
        moved = (9, "a", "first")
        await engine.write(update((A, moved)))
        parked, two, three = (-1, "b", None), (2, *C[1:]), (3, *B[1:])
        await engine.write(update((B, parked)), update((C, two)), update((parked, three)))
    assert target.rows(TABLE) == [two, three, moved]


@contract
async def test_keys_move_along_a_chain(target: Target) -> None:
    rows = [(number, f"c{number}", None) for number in range(5)]
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(*rows))
        shifted = [(number + 1, code, note) for number, code, note in rows]
        await engine.write(update(*reversed(list(zip(rows, shifted, strict=True)))))
    assert target.rows(TABLE) == shifted


@contract
async def test_unique_values_are_swapped(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A, B))
        free, a, b = (1, None, "first"), (1, "b", "first"), (2, "a", None)
        await engine.write(update((A, free)), update((B, b)), update((free, a)))
    assert target.rows(TABLE) == [a, b]


@contract
async def test_a_unique_value_goes_to_another_row(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        await engine.write(delete(A), insert((7, "a", None)))
        await engine.write(update(((7, "a", None), (7, "z", None))), insert((8, "a", None)))
    assert target.rows(TABLE) == [(7, "z", None), (8, "a", None)]


@contract
async def test_absent_columns_stay_as_they_are(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A, C))
        minimal = Rows(TABLE, "update", [(1, None, None)], [(1, None, "new")], 0b001, 0b101)
        await engine.write(minimal)
        await engine.write(Rows(TABLE, "delete", [(3, None, None)], None, 0b001))
    assert target.rows(TABLE) == [(1, "a", "new")]


@contract
async def test_a_key_moves_in_a_partial_image(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        await engine.write(
            Rows(TABLE, "update", [(1, None, None)], [(5, None, None)], 0b001, 0b001)
        )
    assert target.rows(TABLE) == [(5, "a", "first")]


@contract
async def test_truncate_empties_a_table_at_its_place_in_the_order(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        await engine.write(insert(B), Truncate(TABLE), insert(C))
    assert target.rows(TABLE) == [C]


@contract
async def test_a_table_without_a_key_is_a_bag(target: Target) -> None:
    x, y, z = ("x", None), ("y", "1"), ("z", "1")
    async with Engine(target) as engine:
        await engine.write(*create(KEYLESS), insert(x, x, x, y, table=KEYLESS))
        await engine.write(delete(x, table=KEYLESS))
        await engine.write(update((x, z), table=KEYLESS), insert(y, table=KEYLESS))
    assert target.rows(KEYLESS) == [x, y, y, z]


@contract
async def test_drift_is_counted(target: Target) -> None:
    seen = int(target.sees_drift)
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), *create(KEYLESS), insert(A))
        assert (await engine.write(insert(B))).drift == {}
        for table, unexpected in (
            (TABLE, insert((1, "a", "other"))),
            (TABLE, delete(C)),
            (KEYLESS, delete(("x", None), table=KEYLESS)),
        ):
            assert (await engine.write(unexpected)).drift.get(table.id, 0) == seen
    assert target.rows(TABLE) == [(1, "a", "other"), B]


# -- snapshots -------------------------------------------------------------------------------------


@contract
async def test_rows_of_the_snapshot_replace(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(SchemaChange("", None, TABLE))
        applied = await engine.write(read(A, B), in_backfill=[TABLE])
        assert applied.rows == {(TABLE.id, "read"): 2}
        await engine.write(read((1, "a", "newer"), C), in_backfill=[TABLE])
    assert target.rows(TABLE) == [(1, "a", "newer"), B, C]


@contract
async def test_changes_that_a_chunk_already_shows_are_no_drift(target: Target) -> None:
    newest, moved = (1, "a", "newest"), (9, "c", None)
    history = [
        insert(A, B, C),
        update((A, newest)),
        delete(B),
        update((C, moved)),
    ]
    async with Engine(target) as engine:
        await engine.write(SchemaChange("", None, TABLE))
        await engine.write(read(newest, moved), in_backfill=[TABLE])
        for changes in history:
            assert (await engine.write(changes, in_backfill=[TABLE])).drift == {}
        applied = await engine.write(*history, CaughtUp(TABLE), in_backfill=[TABLE])
        assert applied.drift == {}
    assert target.rows(TABLE) == [newest, moved]


@contract
async def test_a_partial_image_never_inserts(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(SchemaChange("", None, TABLE))
        minimal = Rows(TABLE, "update", [(1, None, None)], [(1, None, "new")], 0b001, 0b101)
        await engine.write(minimal, in_backfill=[TABLE])
        assert target.rows(TABLE) == []
        await engine.write(read((1, "a", "new")), in_backfill=[TABLE])
    assert target.rows(TABLE) == [(1, "a", "new")]


@contract
async def test_a_unique_value_may_be_twice_until_the_table_settles(target: Target) -> None:
    async with Engine(target) as engine:
        await engine.write(SchemaChange("", None, TABLE))
        await engine.write(read(A), in_backfill=[TABLE])
        # The chunk is ahead of the stream: it shows the value on its new row already.
        await engine.write(read((2, "a", None)), in_backfill=[TABLE])
        await engine.write(update((A, (1, "free", None))), CaughtUp(TABLE), in_backfill=[TABLE])
    assert target.rows(TABLE) == [(1, "free", None), (2, "a", None)]


# -- schema changes --------------------------------------------------------------------------------


@contract
async def test_a_column_comes_in_the_middle_of_a_batch(target: Target) -> None:
    after = altered((ID, Column("more", INT, "int"), CODE, NOTE), indexes=())
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        await engine.write(
            insert(B), SchemaChange("", TABLE, after), insert((3, 7, "c", None), table=after)
        )
    assert target.rows(after) == [(1, None, "a", "first"), (2, None, "b", None), (3, 7, "c", None)]
    state = await target.sink().state()
    assert state is not None
    assert state.tables == (after,)


@contract
async def test_a_column_is_renamed_and_another_goes(target: Target) -> None:
    named = Column("title", TEXT, "varchar(20)")
    after = altered((ID, named))
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        change = SchemaChange("", TABLE, after, renamed=(("code", "title"),))
        await engine.write(change, insert((2, "b"), table=after))
    assert target.rows(after) == [(1, "a"), (2, "b")]


@contract
async def test_a_table_is_renamed_then_dropped(target: Target) -> None:
    after = msgspec.structs.replace(TABLE, id=TableId("contract_shop", "article"), version=2)
    async with Engine(target) as engine:
        await engine.write(*create(TABLE), insert(A))
        await engine.write(SchemaChange("", TABLE, after), insert(B, table=after))
        assert target.rows(after) == [A, B]
        with pytest.raises(KeyError):
            target.rows(TABLE)
        await engine.write(SchemaChange("", after, None))
        with pytest.raises(KeyError):
            target.rows(after)
    state = await target.sink().state()
    assert state is not None
    assert state.tables == ()
