"""A log of the source that is shorter than at the freeze, and sessions from before the freeze."""

from __future__ import annotations

import msgspec
import pytest

from engine.errors import TailraceError
from engine.settings.cutover import CutoverSettings
from tests.support.cutover_world import HOOK, QUICK, World

BACK = msgspec.structs.replace(QUICK, switch_back=HOOK)
HOOKS = msgspec.structs.replace(QUICK, freeze=HOOK, thaw=HOOK)


def left_at(state: str, settings: CutoverSettings = QUICK, **fields: object) -> World:
    """A cutover that a process has left in a state."""
    world = World(settings)
    world.begin(state, **fields)
    return world


def beginning(settings: CutoverSettings = QUICK) -> World:
    """A cutover that is about to freeze the source."""
    world = left_at("freeze", settings, before=None)
    world.read_only = settings.freeze.given
    return world


@pytest.mark.parametrize("state", ["drain", "verify", "finish", "arm"])
def test_a_log_that_went_back_before_the_switch_aborts(state: str) -> None:
    """GIVEN a cutover that is left, and a log that was reset, or that of another server, with a new
    row WHEN the cutover goes on THEN it does not take the log for one without a change."""
    world = left_at(state)
    world.go_back()
    with pytest.raises(TailraceError, match="less than when it was frozen, because it was reset"):
        world.run()
    assert world.record is not None
    assert (world.record.state, world.read_only) == ("aborted", False)
    assert "hook_switch 1" not in world.calls


def test_a_log_that_goes_back_while_the_command_runs() -> None:
    world = beginning()
    world.at["step arm"] = world.go_back
    with pytest.raises(TailraceError, match="less than when it was frozen"):
        world.run()
    assert "hook_switch 1" not in world.calls


def test_a_log_that_went_back_at_the_switch() -> None:
    """A person decides, and is warned."""
    world = left_at("switch", BACK)
    world.go_back()
    with pytest.raises(TailraceError, match="was frozen, because it was reset") as raised:
        world.run()
    assert "--switched" in raised.value.hint
    assert "hook_switch 1" not in world.calls
    done = world.run(switched=True)
    assert "SOURCE WAS WRITTEN AFTER THE FREEZE" in done.warnings[-1]
    assert "less than when it was frozen" in done.warnings[-1]


@pytest.mark.parametrize("left", [False, True])
def test_a_log_that_went_back_in_the_step_stop(left: bool) -> None:
    if left:
        world = left_at("stop", switched_at=2.0)
        world.go_back()
    else:
        world = beginning()
        world.at["hook_switch 1"] = world.go_back
    done = world.run()
    assert done.state == "done"
    assert "less than when it was frozen" in done.warnings[-1]


@pytest.mark.parametrize("begun_at", ["before", "during", "after"])
def test_sessions_from_before_the_freeze_by_a_hook(begun_at: str) -> None:
    """GIVEN a session that is open since before the hook or before its end, or one that began after
    it THEN the former is named, once."""
    world = beginning(HOOKS)

    def begin() -> None:
        world.newest_session += 1
        world.sessions["shop (2)"] = world.newest_session

    if begun_at == "before":
        begin()
    else:
        when = {"during": "hook_freeze 1", "after": "newest_session"}
        world.at[when[begun_at]] = begin
    done = world.run()
    told = [it for line in world.lines for it in line.warnings if "since before" in it]
    assert ["shop (2)" in it for it in told] == ([True] if begun_at != "after" else [])
    assert done.warnings == tuple(told)


def test_a_user_that_is_connected_later_is_named_in_the_step_stop() -> None:
    """GIVEN two users, of which one was named by the freeze THEN the stop names the other one."""
    world = beginning(HOOKS)
    world.sessions = {"shop (2)": 5}
    world.at["hook_switch 1"] = lambda: world.sessions.update({"etl (1)": 6})
    done = world.run()
    assert ["shop" in it for it in done.warnings] == [True, False]
    assert "etl (1)" in done.warnings[1]


def test_a_stop_that_cannot_see_the_sessions_says_that_the_source_was_written() -> None:
    """GIVEN a source that was written, and a list of sessions that cannot be read THEN the warning
    about the writes is not lost."""
    world = left_at("stop", HOOKS, before="hook", switched_at=2.0)
    world.write()
    world.failing = {"clients"}
    done = world.run()
    assert done.state == "done"
    assert "THE SOURCE WAS WRITTEN AFTER THE FREEZE: shop.ledger" in done.warnings[0]
    assert "not known who is connected" in done.warnings[1]
    assert "could not be frozen" not in "".join(done.warnings)
