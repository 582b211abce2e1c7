"""The order of a cutover's steps: crashes, errors, and what is written meanwhile."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from engine.cutover import parts
from engine.cutover.hooks import Hooks
from engine.cutover.readiness import Refused
from engine.errors import TailraceError
from engine.handover import BEFORE_SWITCH, Client, Cutover, Numbers
from engine.proof import TableProof
from engine.settings.cutover import CutoverSettings, HookSettings
from engine.structure import Counter
from tests.support.cutover_world import HOOK, LEDGER, QUICK, World
from tests.support.web_hooks import Hook

BACK = msgspec.structs.replace(QUICK, switch_back=HOOK)
HOOKS = msgspec.structs.replace(QUICK, freeze=HOOK, thaw=HOOK)
STEPS = ["freeze", "drain", "verify", "finish", "arm", "switch", "stop"]


def steps(record: Cutover | None) -> list[str]:
    assert record is not None
    return [it.step for it in record.steps]


def begun(state: str = "freeze", settings: CutoverSettings = QUICK, **fields: object) -> World:
    """A cutover that a process has left in a state."""
    world = World(settings)
    world.begin(state, **fields)
    if state == "freeze":
        world.read_only = False
    return world


def is_bug(world: World) -> None:
    """The comparison has a bug."""

    def fail() -> None:
        raise ValueError("a bug")

    world.comparing = fail


# -- errors ---------------------------------------------------------------------------------------


def test_all_steps() -> None:
    world = begun(before=None)
    done = world.run()
    assert (done.state, steps(done), world.read_only) == ("done", STEPS, True)
    assert world.calls == ["freeze", "hook_switch 1", "stop"]


def test_sequences_go_past_the_counters_of_the_frozen_source() -> None:
    """GIVEN rows that are numbered and deleted until the freeze THEN the step finish gets the
    counters of the frozen source."""
    world = begun(before=None)
    world.at["step drain"] = lambda: world.counters.update({LEDGER: Counter("id", 5001)})
    world.run()
    assert world.finished == Numbers(world.settings.sequence_margin, {LEDGER: Counter("id", 5001)})


def test_a_bug_before_the_switch_aborts() -> None:
    world = begun()
    is_bug(world)
    with pytest.raises(ValueError, match="a bug"):
        world.run()
    assert world.record is not None
    assert (world.record.state, world.read_only) == ("aborted", False)
    assert "ValueError" in world.record.reason


def test_a_bug_and_a_source_that_cannot_be_put_back() -> None:
    world = begun()
    is_bug(world)
    world.failing = {"thaw"}
    with pytest.raises(TailraceError, match="a bug in Tailrace") as raised:
        world.run()
    assert "THE SOURCE MAY STILL BE FROZEN" in raised.value.hint


@pytest.mark.parametrize("aborts", [False, True])
def test_what_cannot_be_told_fails_no_step(aborts: bool) -> None:
    world = begun()

    def broken() -> None:
        raise BrokenPipeError

    world.at = dict.fromkeys((f"step {it}" for it in (*STEPS, "abort")), broken)
    done = world.abort() if aborts else world.run()
    assert done.state == ("aborted" if aborts else "done")
    assert world.read_only != aborts


@pytest.mark.parametrize(
    "when", ["save drain", "save verify", "step drain", "save arm", "save switch"]
)
def test_a_lost_target_does_not_leave_the_source_frozen(when: str) -> None:
    """GIVEN a target that is lost WHEN its record cannot be saved, or its position read THEN the
    source takes writes, the error says what is left to do, and a later command does it."""
    world = begun()

    def lose() -> None:
        world.target_is_lost = True
        if when.startswith("save"):
            raise TailraceError("the connection to the target is lost")

    world.at = {when: lose}
    with pytest.raises(TailraceError, match="lost") as raised:
        world.run()
    assert (world.read_only, world.calls[-1]) == (False, "thaw")
    assert "takes writes as before" in raised.value.hint
    assert "could not store" in raised.value.hint
    world.target_is_lost, world.at = False, {}
    assert world.abort().state == "aborted"
    assert not world.read_only


def test_a_lost_target_that_comes_back_after_the_source_was_written() -> None:
    world = begun("verify")
    world.read_only = False
    world.write()
    done = world.run()
    assert (done.state, steps(done), done.end) == ("done", STEPS[1:], "8")


# -- what happens while a cutover is left ---------------------------------------------------------


@pytest.mark.parametrize("state", ["drain", "finish", "switch"])
def test_a_cutover_that_is_left_freezes_again(state: str) -> None:
    """GIVEN a source that was restarted: it takes writes, and has a new log file WHEN the cutover
    goes on THEN the source is frozen, and no step compares what may have been written since."""
    world = begun(state)
    world.read_only = False
    world.write(rows=False)
    done = world.run()
    assert (done.state, world.read_only, done.end) == ("done", True, "8")
    assert steps(done) == (STEPS[1:] if state != "switch" else ["switch", "stop"])
    assert world.calls.count("hook_switch 1") == 1


@pytest.mark.parametrize("target_is_written", [False, True])
def test_writes_to_the_source_at_the_switch(target_is_written: bool) -> None:
    """GIVEN a cutover that was killed at the switch, and a source that was written since WHEN it
    goes on THEN a person decides: back, or on."""
    world = begun("switch", BACK)
    world.read_only = False
    world.write()
    for _ in range(2):
        with pytest.raises(TailraceError, match=r"after it was frozen: shop\.ledger") as raised:
            world.run()
        assert "--abort" in raised.value.hint
        assert "--switched" in raised.value.hint
        assert world.read_only
    assert "hook_switch 1" not in world.calls
    if not target_is_written:
        assert world.abort().state == "aborted"
        assert not world.read_only
        return
    done = world.run(switched=True)
    assert (done.state, steps(done)) == ("done", ["switch", "stop"])
    assert "THE SOURCE WAS WRITTEN AFTER THE FREEZE: shop.ledger" in done.warnings[-1]
    assert "hook_switch 1" not in world.calls


@pytest.mark.parametrize("state", [None, "drain", "stop"])
def test_only_a_cutover_at_the_switch_can_be_said_to_be_switched(state: str | None) -> None:
    world = begun(state) if state else World()
    with pytest.raises(TailraceError, match="no cutover stands at the step switch"):
        world.run(switched=True)


def test_prepared_transactions_after_a_restart_of_the_source() -> None:
    world = begun("finish")
    world.read_only = False
    world.write(rows=False)
    world.prepared = ["xa"]
    with pytest.raises(TailraceError, match="prepared"):
        world.run()
    assert world.record is not None
    assert world.record.state == "aborted"
    assert "hook_switch 1" not in world.calls


@pytest.mark.parametrize("written", [False, True])
def test_stop_ends_the_engine_before_it_freezes_again(written: bool) -> None:
    world = begun("stop", switched_at=2.0)
    world.read_only = False
    world.write(rows=written)
    done = world.run()
    assert (done.state, world.calls, world.read_only) == ("done", ["stop", "freeze"], True)
    told = world.lines[-1].warnings
    assert told == done.warnings
    assert ("shop.ledger" in "".join(told)) == written


def test_stop_needs_no_source() -> None:
    world = begun("stop", switched_at=2.0)
    world.failing = {"freeze"}
    done = world.run()
    assert done.state == "done"
    assert "could not be frozen again" in done.warnings[-1]


# -- going back -----------------------------------------------------------------------------------


def killed_after_switch_back(world: World) -> None:
    """A process that is killed between the effect of switch_back and its record."""

    def kill() -> None:
        raise KeyboardInterrupt

    world.at = {"save abort": kill}
    with pytest.raises(KeyboardInterrupt):
        world.abort()
    world.at = {}


def test_the_intent_to_switch_back_is_not_forgotten() -> None:
    world = begun("switch", BACK)
    killed_after_switch_back(world)
    assert world.calls == ["hook_switch_back 1"]
    assert world.run().state == "aborted"
    assert world.calls == ["hook_switch_back 1", "hook_switch_back 1", "thaw"]


def test_going_back_without_the_hook_needs_force() -> None:
    world = begun("switch", BACK)
    killed_after_switch_back(world)
    world.settings = QUICK
    with pytest.raises(TailraceError, match="the switch was begun"):
        world.run()
    assert world.abort(force=True).state == "aborted"


def test_force_passes_over_a_broken_switch_back() -> None:
    world = begun("switch", BACK)
    world.failing = {"hook_switch_back"}
    with pytest.raises(TailraceError, match="fails") as raised:
        world.abort()
    assert "--abort --force" in raised.value.hint
    assert world.read_only
    done = world.abort(force=True)
    assert (done.state, world.read_only) == ("aborted", False)
    assert "passed over by --force" in done.warnings[-1]
    assert world.lines[-1].warnings == done.warnings


def test_a_repeated_freeze_has_a_number_of_its_own() -> None:
    """A receiver that drops a request with a known id freezes a source that was restarted."""
    world = begun("drain", HOOKS)
    assert world.record is not None
    world.record = msgspec.structs.replace(world.record, before="hook", freezes=1)
    assert world.run().state == "done"
    assert world.calls[0] == "hook_freeze 2"


def proven(settings: CutoverSettings = QUICK) -> tuple[World, list[str]]:
    """A table that was found equal, which the log has not changed since. The list gets an item at
    each comparison."""
    world = World(msgspec.structs.replace(settings, verify="changed"))
    now = time.time()
    world.proof = TableProof("equal", now, now, position="7", equal_at=now)
    compared: list[str] = []
    world.comparing = lambda: compared.append("compared")
    return world, compared


def test_a_table_that_did_not_change_is_not_compared() -> None:
    world, compared = proven()
    assert (world.run().state, compared) == ("done", [])


def test_the_log_is_read_in_a_part_of_the_time_that_is_left() -> None:
    world, _ = proven()
    world.begin("verify", frozen_at=time.time() - 50.0)
    assert world.run().state == "done"
    assert 4.0 < world.log_seconds < 5.1


@pytest.mark.parametrize("switch_back", [False, True])
def test_after_a_switch_that_is_aborted_every_table_is_compared(switch_back: bool) -> None:
    """GIVEN applications that have written to the target, which the source's log does not show."""
    world, compared = proven(BACK if switch_back else QUICK)
    world.begin("switch")
    done = world.abort(force=True)
    assert "run `tailrace verify CONFIG`" in "".join(world.lines[-1].warnings)
    assert done.state == "aborted"
    assert (world.run().state, compared) == ("done", ["compared"])


def test_after_a_cutover_every_table_is_compared() -> None:
    """GIVEN a cutover that is done, and was given up by hand."""
    world, compared = proven()
    assert world.run().state == "done"
    world.runs, world.read_only = True, False
    assert (world.run().state, compared) == ("done", ["compared"])


# -- what is looked for -------------------------------------------------------------------------


def test_an_edited_mapping_is_refused() -> None:
    """GIVEN a mapping that was edited, and an engine that was not started again."""
    world, compared = proven()
    world.outdated = {LEDGER: "the mapping of the table has changed"}
    with pytest.raises(Refused, match="mapping of the table has changed"):
        world.run()
    assert world.record is None
    world.begin("drain")
    with pytest.raises(Refused, match="mapping of the table has changed"):
        world.run()
    world.begin("verify")
    assert world.run().state == "done"
    assert compared == ["compared"]


def test_a_hook_that_does_not_exist_is_found_before_the_freeze() -> None:
    world, _ = proven(msgspec.structs.replace(QUICK, switch_back=HookSettings(("./nothing",))))
    with pytest.raises(Refused, match=r"hook switch_back cannot be executed: \./nothing"):
        world.run()
    assert (world.record, world.read_only) == (None, False)


def test_a_target_that_is_beyond_a_log_that_was_reset() -> None:
    world = begun("drain")
    world.applied = 9
    with pytest.raises(TailraceError, match="log was reset"):
        world.run()
    assert not world.read_only


def test_others_that_write_to_the_target_after_the_check() -> None:
    world, _ = proven()
    world.at = {"step arm": lambda: world.clients.append(Client("etl", 1, writes=True))}
    with pytest.raises(Refused, match="another session writes to the target's tables: etl"):
        world.run()
    assert (world.read_only, "hook_switch 1" in world.calls) == (False, False)


def test_others_that_cannot_be_seen_on_the_source() -> None:
    world, _ = proven()
    world.hidden, world.sessions = "GRANT PROCESS", {"shop (2)": 5}
    done = world.run()
    assert "GRANT PROCESS" in "".join(done.warnings)
    assert "connected to the source: shop (2)" in done.steps[0].did


# -- waiting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("paused", [False, True])
def test_an_engine_that_is_gone_or_paused_ends_the_drain(
    paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "GONE_SECONDS", 0.1)
    monkeypatch.setattr(parts, "ASK_SECONDS", 0.02)
    world = begun(settings=msgspec.structs.replace(QUICK, max_downtime_seconds=0.0))
    world.applied, world.runs, world.paused = 3, paused, paused
    with pytest.raises(TailraceError, match="paused" if paused else "no engine is connected"):
        world.run()
    assert world.record is not None
    assert (world.record.state, world.read_only) == ("aborted", False)


def test_a_running_engine_has_the_time_that_is_left() -> None:
    settings = msgspec.structs.replace(QUICK, max_downtime_seconds=30.0)
    world = begun("drain", settings, frozen_at=time.time() - 29.8)
    world.applied = 3
    with pytest.raises(TailraceError, match=r"not caught up within 0\.[01] s"):
        world.run()


def test_a_comparison_has_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    world = begun("verify", frozen_at=time.time() - 59.9)
    machine = world.machine()

    async def compare(names: object) -> None:
        await asyncio.Event().wait()

    work = machine._work
    work._parts = work._parts._replace(compare=compare)  # type: ignore[arg-type]
    with pytest.raises(TailraceError, match="not compared within"):
        asyncio.run(machine.run())
    assert not world.read_only


# -- one at a time --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*BEFORE_SWITCH, "switch", "stop", "abort"])
def test_a_check_names_the_cutover_that_is_under_way(state: str) -> None:
    world = begun(state)
    with pytest.raises(TailraceError, match=f"it stands at {state}"):
        asyncio.run(world.machine().check())
    with pytest.raises(TailraceError, match=f"it stands at {state}"):
        asyncio.run(world.machine().rehearse())


def test_a_repeated_request_has_the_same_id() -> None:
    hook = Hook()
    try:
        settings = msgspec.structs.replace(QUICK, freeze=HookSettings(url=hook.url), thaw=HOOK)
        hooks, cutover = Hooks(settings, "mirror"), Cutover("cutover_1", "freeze", 1.0, "test")
        for count in (1, 1, 2):
            asyncio.run(hooks.call("freeze", cutover, count))
        ids = [headers["webhook-id"] for headers, _ in hook.requests]
    finally:
        hook.close()
    assert ids == ["cutover_1_freeze", "cutover_1_freeze", "cutover_1_freeze_2"]
