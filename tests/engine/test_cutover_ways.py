"""What each command of the cutover does in each state, and whether the commands that it names do
what they are named for."""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import pytest

from engine.cli import cutover as command
from engine.cutover import parts
from engine.cutover.steps import way_on
from engine.errors import TailraceError
from engine.handover import BEFORE_SWITCH, Cutover, CutoverState
from engine.proof import TableProof
from tests.support.cutover_world import HOOK, QUICK, World

SOON = msgspec.structs.replace(QUICK, quiet_seconds=0.001)
BACK = msgspec.structs.replace(SOON, switch_back=HOOK)
UNDER_WAY = (*BEFORE_SWITCH, "switch", "stop", "switch_back", "abort")
ENDED = ("done", "aborted", "rehearsed")
NAMED = re.compile(r"`tailrace cutover CONFIG ?([^`]*)`")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "POLL_SECONDS", 0.001)


def left_in(state: str, *, switch_back: bool) -> World:
    """A cutover that was left in a state."""
    world = World(BACK if switch_back else SOON)
    switched = 3.0 if state in ("stop", "done") else None
    world.begin(state, frozen_at=None, switched_at=switched)
    world.read_only = state not in ("aborted", "rehearsed")
    now = time.time()
    world.proof = TableProof("equal", now, now, equal_at=now)
    return world


def does(world: World, words: str) -> str:
    """The state after a command line. Raises TailraceError if it is refused."""
    newest, switch_back = world.record, world.settings.switch_back.given
    if words == "--back":
        raise command._no_way_back(newest, switch_back=switch_back)
    given = {word.strip("-") for word in words.split()}
    names = ("abort", "force", "rehearse", "switched", "dry_run")
    options = argparse.Namespace(json=False, config=Path("shop.toml"))
    for name in names:
        setattr(options, name, name.replace("_", "-") in given)
    asyncio.run(command._work(world.machine(), options, command._Shown(options)))
    assert world.record is not None
    return world.record.state


def outcome(state: str, words: str, *, switch_back: bool) -> tuple[str, str]:
    """The state after a command in a state, or the message of its refusal; and its hint."""
    world = left_in(state, switch_back=switch_back)
    before = world.record
    try:
        return does(world, words), ""
    except TailraceError as error:
        assert world.record == before, "a refusal has changed something"
        return error.message, error.hint


#: The commands that change something, and what they end with in each state.
EXPECTED: dict[str, dict[str, str]] = {
    "": dict.fromkeys((*BEFORE_SWITCH, "switch", "stop", "aborted", "rehearsed"), "done")
    | {"abort": "aborted"},
    "--abort": dict.fromkeys((*BEFORE_SWITCH, "abort"), "aborted"),
    "--abort --force": dict.fromkeys((*BEFORE_SWITCH, "switch", "switch_back", "abort"), "aborted"),
    "--switched": {"switch": "done"},
    "--rehearse": {"aborted": "rehearsed", "rehearsed": "rehearsed"},
    "--dry-run": {"aborted": "aborted", "rehearsed": "rehearsed"},
}
#: Those that end a cutover whose switch was begun, if the hook switch_back is configured.
BY_HOOK = {"": ("switch_back",), "--abort": ("switch", "switch_back")}
#: What a refusal says.
REFUSED = (
    "the switch was begun|the applications are switched|no cutover is under way|a cutover is under"
    " way|no cutover stands at|there is nothing to switch back|there is no way back"
)


@pytest.mark.parametrize("switch_back", [False, True])
@pytest.mark.parametrize("state", [*UNDER_WAY, *ENDED])
def test_a_command_does_what_it_should_or_names_one_that_does(
    state: str, switch_back: bool
) -> None:
    """GIVEN a cutover in a state THEN each command ends it as it should, or changes nothing and
    names commands that end it."""
    for words in (*EXPECTED, "--back"):
        found, hint = outcome(state, words, switch_back=switch_back)
        expected = EXPECTED.get(words, {}).get(state)
        if switch_back and state in BY_HOOK.get(words, ()):
            expected = "aborted"
        if expected is not None:
            assert found == expected, words
        else:
            assert re.match(REFUSED, found), words
            assert_true(state, hint, switch_back=switch_back)


def assert_true(state: str, hint: str, *, switch_back: bool) -> None:
    """Each command that a hint names does what it is named for, in this state."""
    for words in NAMED.findall(hint):
        if words in ("--status", "--back"):
            continue
        found, _ = outcome(state, words, switch_back=switch_back)
        wanted = "aborted" if "--abort" in words or state == "abort" else "done"
        assert found == wanted, (words, hint)


@pytest.mark.parametrize("switch_back", [False, True])
@pytest.mark.parametrize("state", [*UNDER_WAY, *ENDED])
def test_the_status_names_the_commands_that_go_on(state: str, switch_back: bool) -> None:
    """GIVEN a cutover under way THEN the status names at least one command, and each works; the
    switch that has failed needs --force only without the hook switch_back."""
    record = left_in(state, switch_back=switch_back).record
    assert record is not None
    said = way_on(record, switch_back=switch_back)
    assert bool(NAMED.findall(said)) == (state in UNDER_WAY or state == "done")
    assert_true(state, said, switch_back=switch_back)
    begun = state in ("switch", "switch_back")
    assert ("--force" in said) == (begun and not switch_back)
    assert ("--switched" in said) == (state == "switch")
    assert ("--abort" in said) == (state in UNDER_WAY and state != "stop")


def test_every_state_is_looked_at() -> None:
    assert {*UNDER_WAY, *ENDED} == {*get_args(CutoverState)}


def test_a_cutover_in_the_other_direction_needs_another_version() -> None:
    back = Cutover("cutover_1", "drain", 1.0, "test", direction="back")
    assert "version of Tailrace" in way_on(back, switch_back=True)


@pytest.mark.parametrize("switch_back", [False, True])
def test_a_switch_that_fails_names_the_way_back(switch_back: bool) -> None:
    world = left_in("switch", switch_back=switch_back)
    world.failing = {"hook_switch"}
    with pytest.raises(TailraceError, match="fails") as raised:
        world.run()
    world.failing = set()
    assert_true("switch", raised.value.hint, switch_back=switch_back)
    assert ("--force" in raised.value.hint) != switch_back


@pytest.mark.parametrize("written", [False, True])
def test_a_source_that_is_restarted_by_the_end_of_the_switch(written: bool) -> None:
    """GIVEN a hook that takes long, while the source is restarted WHEN it has switched THEN the
    source is frozen again, and a change of its tables is told."""
    world = left_in("switch", switch_back=False)

    def restart() -> None:
        world.read_only = False
        if written:
            world.write()

    world.at = {"hook_switch 1": restart}
    done = world.run()
    assert (done.state, world.read_only) == ("done", True)
    assert ("shop.ledger" in "".join(done.warnings)) == written


def test_the_status_is_shown_with_the_way_on(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(json=False, config=Path("shop.toml"), rehearse=False)
    world = left_in("switch", switch_back=False)
    record = cast(Any, world.record)
    shown = command._Shown(options)
    assert command._show_status(record, shown, as_json=False, switch_back=False) == 0
    said = capsys.readouterr().out
    assert "when no process works on it any more: `tailrace cutover shop.toml`" in said
    assert "`tailrace cutover shop.toml --abort --force`" in said
