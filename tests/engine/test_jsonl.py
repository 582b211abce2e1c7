"""The folder of change records: kills at any step, fencing, and the layout of its state."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.change import Begin, Commit, Rows, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import State
from engine.errors import SinkError, SinkLost
from engine.schema import Column, Table, TableId, Type
from engine.toolkit.record import decode_record
from sinks import jsonl
from sinks.jsonl import Folder, JsonlSettings, JsonlSink
from tests.support.stored_state import CUSTOMER, EMPTY, FOLDER, ORDERS, POSITION, VISIT

TABLE = Table(TableId("shop", "item"), (Column("id", Type("int32"), "int"),), key=(0,))
LATER = 3600.0


class Killed(BaseException):
    """The process ends here. No code of the engine catches it."""


def sink(folder: Path, **settings: float) -> JsonlSink:
    return JsonlSink(JsonlSettings(f"jsonl:{folder}", **settings), "shop")  # type: ignore[arg-type]


async def write(target: JsonlSink, number: int, epoch: int = 1, rows: int = 1) -> None:
    await target.apply([Begin(str(number), str(number - 1), 1.0)])
    await target.apply([Rows(TABLE, "insert", None, [(number,)] * rows), Commit(str(number), 1.0)])
    await target.commit(Checkpoint("shop", epoch, str(number), 1.0))


def finished(folder: Path) -> list[int]:
    """The numbers in all finished segments, as a reader sees them."""
    return [
        record.after["id"]
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
        if (record := decode_record(line)).after is not None
    ]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))


def test_a_segment_is_visible_once_it_is_finished(tmp_path: Path) -> None:
    async def work() -> None:
        target = sink(tmp_path / "made" / "here", segment_seconds=LATER)
        folder = tmp_path / "made" / "here"
        await target.open()
        for number in (1, 2, 3):
            await write(target, number)
        assert finished(folder) == []
        assert names(folder) == ["changes-00000001.part", "epoch", "state.json"]
        await target.close()
        assert finished(folder) == [1, 2, 3]
        assert names(folder) == ["changes-00000001.jsonl", "epoch", "state.json"]
        await target.open()
        await write(target, 4, 2)
        await target.close()
        assert finished(folder) == [1, 2, 3, 4]

    run(work)


def test_a_segment_is_finished_when_it_is_full_or_old(tmp_path: Path) -> None:
    async def work() -> None:
        target = sink(tmp_path, segment_seconds=LATER, segment_bytes=1000)
        await target.open()
        await write(target, 1)
        assert finished(tmp_path) == []
        await write(target, 2, rows=20)
        assert finished(tmp_path) == [1] + [2] * 20
        await target.close()
        target = sink(tmp_path, segment_seconds=0)
        await target.open()
        await write(target, 3, 2)
        assert finished(tmp_path)[-1] == 3
        await target.commit(Checkpoint("shop", 2, "4"))
        assert len(list(tmp_path.glob("*.jsonl"))) == 2

    run(work)


#: The durable steps of a commit. A kill before or after one leaves the commit unfinished.
STEPS = ("append", "cut", "state", "publish")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("segment_seconds", [0, LATER])
def test_a_kill_at_any_step_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str, segment_seconds: float
) -> None:
    async def work() -> None:
        target = sink(tmp_path, segment_seconds=segment_seconds)
        await target.open()
        await write(target, 1)
        with monkeypatch.context() as patched:
            kill_at(patched, step, when)
            try:
                await write(target, 2)
            except Killed:
                await target.rollback()  # frees the resources that it holds in the test's process
            else:
                assert segment_seconds, "the step never came"
                assert step in ("cut", "publish"), "the step never came"
        again = sink(tmp_path, segment_seconds=segment_seconds)
        state = await again.open()
        assert state.checkpoint is not None
        done = int(state.checkpoint.position)
        assert done in (1, 2)
        for number in range(done + 1, 5):
            await write(again, number, 2)
        await again.close()
        assert finished(tmp_path) == [1, 2, 3, 4]
        assert not list(tmp_path.glob("*.part"))

    run(work)


def kill_at(patched: pytest.MonkeyPatch, step: str, when: str) -> None:
    """Make the process die before or after this step. An appended record may be torn."""
    place, name = {
        "append": (Folder, "_append"),
        "cut": (os, "truncate"),
        "state": (Path, "replace"),
        "publish": (Folder, "_publish"),
    }[step]
    real = getattr(place, name)

    def die(*arguments: object) -> None:
        if when == "after":
            real(*arguments)
        elif step == "append":
            with (arguments[1]).open("ab") as part:  # type: ignore[attr-defined]
                part.write(b'{"op":"insert","torn')
        raise Killed

    patched.setattr(place, name, die)


def test_a_disk_error_leaves_nothing_of_the_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        target = sink(tmp_path, segment_seconds=LATER)
        await target.open()
        await write(target, 1)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
            with pytest.raises(SinkLost, match="full"):
                await write(target, 2)
        await target.close()
        assert finished(tmp_path) == [1]
        state = await target.open(None)
        assert state.checkpoint is not None
        assert state.checkpoint.position == "1"

    run(work)


def test_a_large_transaction_is_spooled_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "SPOOL_BYTES", 100)

    async def work() -> None:
        target = sink(tmp_path)
        await target.open()
        await target.apply([SchemaChange("", None, TABLE)])
        for number in range(100):
            await target.apply([Rows(TABLE, "insert", None, [(number,)])])
        assert finished(tmp_path) == []
        await target.commit(Checkpoint("shop", 1, "1"))
        await target.close()
        assert finished(tmp_path) == list(range(100))

    run(work)


def test_a_folder_belongs_to_one_pipeline(tmp_path: Path) -> None:
    async def work() -> None:
        target = sink(tmp_path)
        await target.open()
        await write(target, 1)
        await target.close()
        with pytest.raises(SinkError, match="belongs to the pipeline 'shop'"):
            await JsonlSink(JsonlSettings(f"jsonl:{tmp_path}"), "other").open()

    run(work)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "state.json").write_text("{}")
        with pytest.raises(SinkError, match="damaged"):
            await sink(tmp_path).open()

    run(work)


def test_check_reports_whether_the_folder_can_be_written(tmp_path: Path) -> None:
    async def work() -> None:
        (good,) = await sink(tmp_path / "new").check([])
        assert good.level == "ok"
        (tmp_path / "file").touch()
        (bad,) = await sink(tmp_path / "file").check([])
        assert (bad.level, bool(bad.action)) == ("error", True)
        assert not (tmp_path / "new").exists()

    run(work)


def test_records_can_go_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def work() -> None:
        target = JsonlSink(JsonlSettings("jsonl:-"), "shop")
        state = await target.open()
        assert state.checkpoint is None
        await write(target, 1)
        assert await JsonlSink(JsonlSettings("jsonl:-"), "shop").state() is None
        await target.close()

    run(work)
    (line,) = capfdbinary.readouterr().out.splitlines()
    assert decode_record(line).after == {"id": 1}


# -- layouts ---------------------------------------------------------------------------------------

OLD_RECORDS = b'{"old":1}\n' * 373 + b'"seven"'  # the size that the state of layout 1 records
OLD_CHECKPOINT = Checkpoint(
    "legacy",
    1,
    POSITION,
    0.0,
    {
        ORDERS.id: TableProgress("backfilling", "[5]", 5, 900, POSITION),
        CUSTOMER.id: TableProgress("pending", estimate=200),
        VISIT.id: TableProgress("pending", estimate=3),
        EMPTY.id: TableProgress("pending"),
    },
)


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    """A folder of version 0.1.0 after a kill."""
    text = (FOLDER / "jsonl-layout-1.json").read_bytes()
    (tmp_path / "state.json").write_bytes(text)
    (tmp_path / "epoch").write_text("1\n")
    (tmp_path / "changes-00000001.part").write_bytes(OLD_RECORDS + b'{"torn')
    return tmp_path


def legacy(folder: Path) -> JsonlSink:
    return JsonlSink(JsonlSettings(f"jsonl:{folder}"), "legacy")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_of_layout_1_is_upgraded(
    old_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        target = legacy(old_folder)
        state = await target.open()
        assert state == State(2, OLD_CHECKPOINT, (ORDERS, CUSTOMER, VISIT, EMPTY))
        upgraded = (old_folder / "state.json").read_bytes()
        assert b'"layout":2' in upgraded
        again = await target.open()
        assert again == State(3, OLD_CHECKPOINT, state.tables)
        assert (old_folder / "state.json").read_bytes() == upgraded
        await target.apply([Rows(TABLE, "insert", None, [(1,)])])
        await target.commit(Checkpoint("legacy", 3, "later"))
        await target.close()
        text = (old_folder / "changes-00000001.jsonl").read_bytes()
        assert text.startswith(OLD_RECORDS + b'{"op"')

    with caplog.at_level(logging.INFO, "tailrace"):
        run(work)
    (line,) = caplog.records
    assert vars(line).items() >= {"from_layout": 1, "to_layout": 2, "tables": 4}.items()


def test_a_reader_of_layout_1_changes_nothing(old_folder: Path) -> None:
    async def work() -> None:
        before = contents(old_folder)
        state = await legacy(old_folder).state()
        assert state == State(1, OLD_CHECKPOINT, (ORDERS, CUSTOMER, VISIT, EMPTY))
        assert contents(old_folder) == before

    run(work)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_during_the_upgrade(
    old_folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async def work() -> None:
        with monkeypatch.context() as patched:
            kill_at(patched, "state", when)
            with pytest.raises(Killed):
                await legacy(old_folder).open()
        text = (old_folder / "state.json").read_bytes()
        assert (b'"layout":2' in text) == (when == "after")
        state = await legacy(old_folder).open()
        assert state == State(3, OLD_CHECKPOINT, (ORDERS, CUSTOMER, VISIT, EMPTY))

    run(work)


def test_an_engine_of_version_0_1_0_is_fenced_or_refuses(old_folder: Path) -> None:
    """It compares ``epoch`` at each commit. At a start it needs a ``pipeline`` at the top level."""

    async def work() -> None:
        target = legacy(old_folder)
        await target.open()
        assert (old_folder / "epoch").read_text() == "2\n"
        await target.close()
        assert "pipeline" not in json.loads((old_folder / "state.json").read_bytes())

    run(work)


def test_a_newer_layout_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    async def work() -> None:
        await sink(tmp_path).open()
        (tmp_path / "state.json").write_text('{"layout":3}')
        before = contents(tmp_path)
        for attempt in (sink(tmp_path).open, sink(tmp_path).state):
            with pytest.raises(SinkError, match="layout 3, this version knows 2") as raised:
                await attempt()
            assert "newer" in raised.value.hint
        assert contents(tmp_path) == before

    run(work)
