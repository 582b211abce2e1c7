"""Commands that are stored in the target, on a running pipeline and on a stopped one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from engine.change import Change, Chunk, Row
from engine.cli.inbox import awaited
from engine.commands import (
    BackfillTables,
    Letters,
    Pause,
    PipelineCommand,
    QuarantineTables,
    Reload,
    RepairRows,
    Resume,
    Skip,
    Stop,
    StoredCommand,
    in_words,
)
from engine.errors import ConfigError, SinkLost, SourceError, SourceLost
from engine.pipeline import stored_commands
from engine.recovery import RepairKeys, TooLarge
from engine.schema import Table, TableId
from engine.settings.loader import BackfillSettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import END, MemoryDatabase, MemorySettings, MemorySource, Unlogged
from tests.support.commands import submit, submit_now
from tests.support.memory_pipeline import (
    KEYED,
    LogOnlySource,
    WatchedSink,
    assert_mirrored,
    insert,
    make_pipeline,
    run,
)
from tests.support.waiting import wait_until_async

OTHER = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "other"))
QUARANTINE = BackfillSettings(chunk_rows=2, unlogged_change="quarantine")


def sink_of(store: MemoryStore, name: str = "test") -> MemorySink:
    return MemorySink(MemorySinkSettings("memory:test"), name, store)


def backfill(*tables: str) -> BackfillTables:
    return BackfillTables(tables)


def outcome(store: MemoryStore, id: int) -> StoredCommand:
    return store.commands[id - 1][1]


def quarantined() -> tuple[MemoryDatabase, MemoryStore]:
    """A pipeline that has stopped, with one of its two tables in quarantine."""
    database, store = MemoryDatabase(), MemoryStore()
    for table in (KEYED, OTHER):
        database.load(table, [(number, "old") for number in range(9)])
    run(make_pipeline(database, store), until_caught_up=True)
    database.commit(Unlogged(KEYED, [(number, "new") for number in range(12)]))
    database.commit(insert(KEYED, (100, "x")), insert(OTHER, (100, "x")))
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    assert [it.state for it in pipeline.status().tables] == ["quarantined", "live"]
    return database, store


def test_a_stopped_pipeline_executes_a_command_at_its_start() -> None:
    database, store = quarantined()
    id = submit(sink_of(store), backfill(str(KEYED.id)))
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    assert_mirrored(database, store)
    assert {it.state for it in pipeline.status().tables} == {"live"}
    assert outcome(store, id).outcome == f"{KEYED.id}: read again from now on"


def test_a_running_pipeline_executes_a_command_at_a_commit() -> None:
    database, store = quarantined()
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)

    async def scenario() -> None:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        await submit_now(sink_of(store), backfill(str(KEYED.id), str(OTHER.id)))
        await wait_until_async(lambda: outcome(store, 1).outcome is not None)
        await wait_until_async(lambda: {it.state for it in pipeline.status().tables} == {"live"})
        pipeline.stop()
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)


@pytest.mark.parametrize("step", range(10))
def test_a_command_is_executed_once_whenever_the_engine_is_killed(step: int) -> None:
    database, store = quarantined()
    id = submit(sink_of(store), backfill(str(KEYED.id)))
    commits = 0

    def die() -> None:
        nonlocal commits
        commits += 1
        if commits == step + 1:
            raise Killed

    try:
        run(make_pipeline(database, store, sink=WatchedSink(store, die)), until_caught_up=True)
    except Killed:
        run(make_pipeline(database, store), until_caught_up=True)
    assert outcome(store, id).outcome is not None
    assert_mirrored(database, store)


class Killed(Exception):
    """Stands for SIGKILL."""


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (backfill("shop.keyed", "shop.none"), "the pipeline follows no table shop.none"),
        ('{"command": "dance"}', "cannot read the stored command: Invalid value 'dance'"),
        ("{", "cannot read the stored command"),
        ('{"command": "backfill"}', "stored command: name tables, or say all; give it again"),
        ('{"command": "backfill", "every": 1}', "contains unknown field `every`; give it again"),
    ],
)
def test_a_command_that_cannot_be_executed_is_refused(
    command: BackfillTables | str, reason: str
) -> None:
    database, store = quarantined()
    id = submit(sink_of(store), command)
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    assert outcome(store, id).refused
    assert reason in (outcome(store, id).outcome or "")
    assert [it.state for it in pipeline.status().tables] == ["quarantined", "live"]


def test_a_log_without_a_server_refuses_to_read_a_table_again() -> None:
    database, store = quarantined()
    database.mark(END)
    id = submit(sink_of(store), backfill(str(KEYED.id)))
    run(make_pipeline(database, store, source=LogOnlySource(database)))
    assert "a log without a server" in (outcome(store, id).outcome or "")
    assert store.rows(KEYED.id) == [(number, "old") for number in range(9)]


def test_the_engine_of_another_pipeline_takes_no_command() -> None:
    store = MemoryStore()
    submit(sink_of(store, "other"), backfill("shop.keyed"))
    database = MemoryDatabase()
    database.load(KEYED, [(1, "x")])
    run(make_pipeline(database, store), until_caught_up=True)
    assert outcome(store, 1).outcome is None


class FailingSource(MemorySource):
    """A source that cannot tell the end of its log, which a command asks for."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(MemorySettings("memory:test"), database)
        self.asked = 0

    def position(self) -> str:
        self.asked += 1
        if self.asked == 3:  # after those of the start and of the goal
            raise SourceError("the server says no")
        return super().position()


def test_a_command_that_fails_blocks_neither_the_others_nor_the_stream() -> None:
    database, store = quarantined()
    first = submit(sink_of(store), BackfillTables(all=True))
    second = submit(sink_of(store), backfill(str(KEYED.id)))
    pipeline = make_pipeline(database, store, source=FailingSource(database), backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    failed = outcome(store, first)
    assert (failed.refused, failed.outcome) == (True, "it failed: the server says no")
    assert outcome(store, second).outcome == f"{KEYED.id}: read again from now on"
    assert_mirrored(database, store)


class LosingSink(MemorySink):
    """A target whose connection is lost whenever a table is left."""

    async def close_dead_letters(self, id: TableId, letter: int | None, outcome: str) -> None:
        raise SinkLost("the connection broke")


def test_a_command_that_loses_the_connection_each_time_fails() -> None:
    database, store = quarantined()
    id = submit(sink_of(store), backfill(str(KEYED.id)))
    sink = LosingSink(MemorySinkSettings("memory:test"), "test", store)
    pipeline = make_pipeline(database, store, sink=sink, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    assert outcome(store, id).outcome == "it failed: the connection broke"
    assert pipeline.counters.reconnects == 3


def test_a_command_quarantines_tables_until_they_are_read_again() -> None:
    database, store = quarantined()
    id = submit(sink_of(store), QuarantineTables(("shop.*",)))
    pipeline = make_pipeline(database, store, backfill=QUARANTINE)
    run(pipeline, until_caught_up=True)
    assert "shop.keyed, shop.other: quarantined" in (outcome(store, id).outcome or "")
    keyed, other = pipeline.status().tables
    assert (keyed.state, other.state) == ("quarantined", "quarantined")
    assert "a command of ann" not in keyed.reason  # it was quarantined before
    assert other.reason == "a command of ann"
    assert "tailrace backfill" in other.remedy
    before = store.rows(OTHER.id)
    database.commit(insert(OTHER, (200, "later")))
    run(make_pipeline(database, store, backfill=QUARANTINE), until_caught_up=True)
    assert store.rows(OTHER.id) == before
    submit(sink_of(store), backfill("shop.*"))
    run(make_pipeline(database, store, backfill=QUARANTINE), until_caught_up=True)
    assert_mirrored(database, store)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (BackfillTables(("a.b", "c.*")), "backfill a.b c.*"),
        (BackfillTables(all=True), "backfill --all"),
        (QuarantineTables(("a.b",)), "quarantine a.b"),
        (Skip("f.1:20"), "skip --statement f.1:20"),
        (Skip("f.1:20", True), "skip --transaction f.1:20"),
        (Letters("retry", (1, 2)), "dead-letters retry 1 2"),
    ],
)
def test_a_command_in_words(command: PipelineCommand, words: str) -> None:
    assert in_words(msgspec.json.encode(command).decode()) == words


def test_an_unknown_command_is_shown_as_it_is() -> None:
    assert in_words('{"command": "dance"}') == '{"command": "dance"}'


# -- pause, resume, reload, stop -------------------------------------------------------------------


def live() -> tuple[MemoryDatabase, MemoryStore]:
    """A pipeline that has stopped, with one live table."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(number, "old") for number in range(9)])
    run(make_pipeline(database, store), until_caught_up=True)
    return database, store


def test_a_paused_pipeline_applies_nothing_until_it_is_resumed() -> None:
    database, store = live()

    async def scenario() -> None:
        pipeline = make_pipeline(database, store)
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        await submit_now(sink_of(store), Pause())
        await wait_until_async(lambda: pipeline.state == "paused")
        database.commit(insert(KEYED, (100, "x")))
        pipeline.stop()
        await running

        pipeline = make_pipeline(database, store)
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "paused")
        assert len(store.rows(KEYED.id)) == 9
        await submit_now(sink_of(store), Resume())
        await wait_until_async(lambda: len(store.rows(KEYED.id)) == 10)
        pipeline.stop()
        await running

    asyncio.run(scenario())
    assert_mirrored(database, store)


def test_a_stop_ends_the_engine_that_runs_and_no_later_one() -> None:
    database, store = live()
    early = submit(sink_of(store), Stop())

    async def scenario() -> None:
        pipeline = make_pipeline(database, store)
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        await submit_now(sink_of(store), Stop())
        await running
        assert pipeline.stopping

    asyncio.run(scenario())
    assert outcome(store, early).refused
    assert outcome(store, early + 1).outcome == "the engine ends"


@pytest.mark.parametrize("mistake", [True, False])
def test_a_reload_ends_the_pipeline_unless_the_configuration_is_wrong(mistake: bool) -> None:
    database, store = live()

    def reload() -> str:
        if mistake:
            raise ConfigError("the key is unknown", hint="did you mean 'url'?")
        return "read again"

    async def scenario() -> None:
        pipeline = make_pipeline(database, store, reload=reload)
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        await submit_now(sink_of(store), Reload())
        await wait_until_async(lambda: outcome(store, 1).outcome is not None)
        if mistake:
            await wait_until_async(lambda: pipeline.state == "streaming")
            pipeline.stop()
        await running
        assert pipeline.reloading is not mistake

    asyncio.run(scenario())
    done = outcome(store, 1)
    assert done.refused is mistake
    assert done.outcome == ("the key is unknown" if mistake else "read again")


def test_an_engine_without_a_configuration_refuses_a_reload() -> None:
    database, store = live()

    async def scenario() -> None:
        pipeline = make_pipeline(database, store)
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        await submit_now(sink_of(store), Reload())
        await wait_until_async(lambda: outcome(store, 1).refused)
        pipeline.stop()
        await running

    asyncio.run(scenario())


@pytest.mark.parametrize("command", [Stop(), Reload()])
def test_the_first_run_of_a_pipeline_obeys(command: PipelineCommand) -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "old")])

    async def scenario() -> None:
        pipeline = make_pipeline(database, store, reload=lambda: "read again")
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        await submit_now(sink_of(store), command)
        await running
        assert pipeline.reloading is isinstance(command, Reload)

    asyncio.run(scenario())
    assert not outcome(store, 1).refused


@pytest.mark.parametrize("commands", [(Reload(), Stop()), (Stop(), Reload())])
def test_a_stop_is_not_lost_beside_a_reload(commands: tuple[PipelineCommand, ...]) -> None:
    database, store = live()

    async def scenario() -> None:
        pipeline = make_pipeline(database, store, reload=lambda: "read again")
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: pipeline.state == "streaming")
        for command in commands:
            await submit_now(sink_of(store), command)
        await running
        if pipeline.reloading:  # the stop waits for the pipeline that continues
            await asyncio.wait_for(make_pipeline(database, store, continues=True).run(), 20)

    asyncio.run(scenario())
    assert not outcome(store, 1).refused
    assert outcome(store, 1 + commands.index(Stop())).outcome == "the engine ends"


def test_an_interrupted_command_line_says_that_the_command_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, store = live()

    async def scenario() -> None:
        async with sink_of(store).command_client() as client:
            id = await client.submit(msgspec.json.encode(Pause()).decode(), "ann")
            waiting = asyncio.create_task(awaited(client, id, 60, "`this`"))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(scenario())
    assert "stays stored, and an engine executes it unless `this`" in capsys.readouterr().out


# -- repairs ---------------------------------------------------------------------------------------


class RepairSink(MemorySink):
    """A target that keeps the keys of repairs."""

    async def submit_repair(self, command: str, by: str, keys: Mapping[TableId, RepairKeys]) -> int:
        raise NotImplementedError

    async def repair_keys(self, id: int) -> dict[TableId, RepairKeys]:
        return {KEYED.id: RepairKeys((("1",),))}

    async def why_not_anew(self, table: Table) -> str:
        return ""


class RepairSource(MemorySource):
    """A source whose connection is lost in reads of rows, or in streams, as often as it is told."""

    def __init__(self, database: MemoryDatabase, reads: int, streams: int, size: int = 0) -> None:
        super().__init__(MemorySettings("memory:test"), database)
        self._reads, self._streams, self._size = reads, streams, size
        self.read = 0

    def rows_of_keys(
        self, table: Table, keys: Sequence[Row], low_watermark: str, most_bytes: int
    ) -> Chunk:
        self.read += 1
        if self._size > most_bytes:
            raise TooLarge
        if self.read <= self._reads:
            raise SourceLost("the read was lost")
        return Chunk(table, [(1, "old")], None, self.position())

    def stream(self, *arguments: Any, **others: Any) -> Iterator[Sequence[Change]]:
        self._streams -= 1
        if self._streams >= 0:
            raise SourceLost("the stream was lost")
        return super().stream(*arguments, **others)


def run_repair(reads: int = 0, streams: int = 0, size: int = 0) -> tuple[MemoryStore, RepairSource]:
    """Run a pipeline with a repair that waits."""
    database, store = live()
    submit(sink_of(store), RepairRows({str(KEYED.id): 1}))
    source = RepairSource(database, reads, streams, size)
    sink = RepairSink(MemorySinkSettings("memory:test"), "test", store)
    run(make_pipeline(database, store, source=source, sink=sink), until_caught_up=True)
    return store, source


@pytest.mark.parametrize("lost", [{"reads": 2}, {"streams": 2}])
def test_a_repair_begins_again_after_a_lost_connection(lost: dict[str, int]) -> None:
    store, source = run_repair(**lost)
    assert outcome(store, 1).outcome == f"{KEYED.id}: rows written: 1, deleted: 0"
    assert source.read == 3


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ({"reads": 100}, "it failed: the read was lost; type the command again"),
        ({"streams": 9}, "the pipeline was interrupted each time before the rows were written"),
    ],
)
def test_a_repair_that_begins_too_often_fails(lost: dict[str, int], reason: str) -> None:
    store, source = run_repair(**lost)
    assert reason in (outcome(store, 1).outcome or "")
    assert source.read == 3


def test_a_repair_that_began_too_long_ago_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_commands, "REPAIR_SECONDS", 0.0)
    store, source = run_repair(reads=100)
    assert "the read was lost" in (outcome(store, 1).outcome or "")
    assert source.read == 1


def test_a_repair_of_rows_beyond_all_bounds_is_refused() -> None:
    """Once and for all: else the engine would try it again at each start."""
    store, source = run_repair(size=65 << 20)
    assert (outcome(store, 1).refused, source.read) == (True, 1)
    assert "more than 64 MiB, up to those of" in (outcome(store, 1).outcome or "")


def test_a_repair_keeps_no_other_command_waiting() -> None:
    """Not even a repair whose attempts all fail."""
    order: list[int] = []
    database, store = live()
    submit(sink_of(store), RepairRows({str(KEYED.id): 1}))
    submit(sink_of(store), QuarantineTables(("shop.none",)))
    source = RepairSource(database, 0, 1)

    class Sink(RepairSink):
        async def conclude_command(self, id: int, outcome: str, *, refused: bool = False) -> None:
            order.append(id)
            await super().conclude_command(id, outcome, refused=refused)

    sink = Sink(MemorySinkSettings("memory:test"), "test", store)
    run(make_pipeline(database, store, source=source, sink=sink), until_caught_up=True)
    assert order == [2, 1]
