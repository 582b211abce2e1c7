"""How each step of a cutover is undone, as the run, the dry run, the rehearsal and the status say,
and what a refusal has left behind."""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from pathlib import Path

import msgspec
import pytest

from engine.cli import cutover as command
from engine.cutover.readiness import Refused
from engine.handover import Client
from engine.proof import TableProof
from tests.support.cutover_world import HOOK, QUICK, World

BACK = msgspec.structs.replace(QUICK, switch_back=HOOK)
OPTIONS = argparse.Namespace(
    json=False, config=Path("shop.toml"), force=False, dry_run=False, rehearse=False, abort=False,
    switched=False,
)  # fmt: skip
UNDO = re.compile(r"^(\w+): .*(?:\n  (?!undo).*)*\n  undo: (.*)$", re.MULTILINE)


def ready(*, switch_back: bool) -> World:
    world = World(BACK if switch_back else QUICK)
    now = time.time()
    world.proof = TableProof("equal", now, now, position="7", equal_at=now)
    return world


def said(world: World, capsys: pytest.CaptureFixture[str], **chosen: bool) -> dict[str, str]:
    """What a command says about how to undo each step."""
    options = argparse.Namespace(**{**vars(OPTIONS), **chosen})
    shown = command._Shown(options)
    world.shown = shown.line
    assert asyncio.run(command._work(world.machine(), options, shown)) == 0
    return dict(UNDO.findall(capsys.readouterr().out))


@pytest.mark.parametrize("switch_back", [False, True])
def test_how_the_switch_is_undone_depends_on_its_hook(
    switch_back: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    world = ready(switch_back=switch_back)
    planned = said(world, capsys, dry_run=True)
    done = said(world, capsys)
    assert [planned[step] for step in planned if step != "check"] == [
        done[step] for step in done if step != "check"
    ]
    assert ("calls switch_back" in done["switch"], "--force" in done["switch"]) == (
        switch_back,
        not switch_back,
    )
    assert world.record is not None
    recorded = {it.step: it.undo for it in world.record.steps}
    assert recorded["switch"].replace("CONFIG", "shop.toml") == done["switch"]


def test_a_rehearsal_says_that_nothing_is_to_be_undone(capsys: pytest.CaptureFixture[str]) -> None:
    world = ready(switch_back=False)
    told = said(world, capsys, rehearse=True)
    assert list(told) == ["check", "drain", "verify", "finish", "arm"]
    assert all("nothing is" in it for it in told.values())
    assert "sequences that were set" in told["finish"]
    shown = status(world, capsys)
    assert shown.count("    undo: nothing is to be undone") == 4


@pytest.mark.parametrize("chosen", ["", "rehearse"])
def test_a_constraint_that_rows_violate_is_a_warning(
    chosen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = ready(switch_back=True)
    world.left = ("c1 of ledger stays NOT VALID, because rows violate it",)
    options = argparse.Namespace(**{**vars(OPTIONS), **({chosen: True} if chosen else {})})
    shown = command._Shown(options)
    world.shown = shown.line
    assert asyncio.run(command._work(world.machine(), options, shown)) == 0
    assert capsys.readouterr().out.count("warning: c1 of ledger stays NOT VALID") == 1
    assert world.record is not None
    assert world.record.warnings == world.left


def status(world: World, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``--status`` prints."""
    assert (
        command._show_status(
            world.record, command._Shown(OPTIONS), as_json=False, switch_back=False
        )
        == 0
    )
    return capsys.readouterr().out


def test_the_status_says_how_steps_are_undone_as_things_stand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a cutover that is killed before the switch, is aborted, and another one that is done
    THEN no command is named that does nothing any more."""
    world = ready(switch_back=False)

    def die() -> None:
        raise SystemExit

    world.at = {"step finish": die}
    with pytest.raises(SystemExit):
        world.run()
    freeze = "lets the source take writes again"
    assert (
        status(world, capsys).count(f"    undo: `tailrace cutover shop.toml --abort` {freeze}") == 3
    )
    world.abort()
    assert UNDONE.findall(status(world, capsys)) == ["begin a cutover again"]
    world.at, world.read_only = {}, False
    world.run()
    (last,) = UNDONE.findall(status(world, capsys))
    assert last.startswith("not undone")


UNDONE = re.compile(r"^    undo: (.*)$", re.MULTILINE)


def test_a_refusal_after_the_step_finish_says_what_was_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a session that writes to the target WHEN a rehearsal has set the sequences THEN the
    refusal does not say that nothing was changed."""
    world = ready(switch_back=False)
    etl = Client("etl", 1, writes=True)
    world.at = {"step arm": lambda: world.clients.append(etl)}
    with pytest.raises(Refused) as raised:
        asyncio.run(world.machine().rehearse())
    command._Shown(OPTIONS).refused(raised.value)
    told = capsys.readouterr().out
    assert "nothing was changed" not in told
    assert "the step finish was done on the target" in told
    with pytest.raises(Refused) as raised:  # by the check, before anything
        asyncio.run(world.machine().rehearse())
    command._Shown(OPTIONS).refused(raised.value)
    assert capsys.readouterr().out.endswith("nothing was changed\n")
