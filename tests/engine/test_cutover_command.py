"""The command line of the cutover: its exit status, and an output that nobody reads."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

import pytest

from engine.cli import cutover as command
from tests.support.cutover_world import World


def work(world: World, **chosen: bool) -> int:
    """The exit status of the command."""
    options = argparse.Namespace(json=False, config=Path("shop.toml"), force=False)
    for name in ("dry_run", "rehearse", "abort", "switched"):
        setattr(options, name, chosen.get(name, False))
    shown = command._Shown(options)
    return asyncio.run(command._work(world.machine(), options, shown))


def test_an_abort_is_a_success_only_if_it_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN an abort that was killed WHEN `tailrace cutover` ends it THEN `… && deploy` does not
    deploy."""
    world = World()
    world.begin("abort")
    assert work(world) == 1
    assert capsys.readouterr().out.endswith("aborted\n")
    world.begin("verify")
    assert work(world, abort=True) == 0
    world.begin("verify")
    assert work(world) == 0
    world.begin("switch")
    assert work(world, switched=True) == 0


def test_an_abort_that_is_not_stored_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    world.begin("verify")
    world.at = {"thaw": lambda: setattr(world, "target_is_lost", True)}
    assert work(world, abort=True) == 1
    assert "takes writes as before; the target could not store" in capsys.readouterr().out


def test_an_output_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a reader of standard output that is gone THEN the cutover goes on to its end."""
    reader, writer = os.pipe()
    os.close(reader)
    world = World()
    world.begin("verify")
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert work(world) == 0
    assert world.record is not None
    assert world.record.state == "done"
