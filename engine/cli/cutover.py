"""
The command ``cutover``: freeze the source, prove the target, and switch the applications to it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import msgspec

from engine import structure
from engine.cli.command import Command
from engine.cli.cutover_engine import engine_of
from engine.cli.cutover_report import reported, write_cutover
from engine.cli.inbox import store_of, user
from engine.cli.output import print_json
from engine.cli.report import Wanted, add_report_options, server_of, wanted_report
from engine.cli.schema import schema_differences
from engine.cli.verify import compare, rows_of
from engine.cli.wiring import (
    load_settings,
    make_mapping,
    make_sink,
    make_source,
    places,
    version_and_codecs,
)
from engine.contract import ReadsByPolicy, Sink, Source, State
from engine.cutover.machine import Machine
from engine.cutover.parts import Line, Parts
from engine.cutover.readiness import Refused
from engine.cutover.steps import NOT_STORED, STEPS, undo_now, way_on
from engine.errors import ConfigError, TailraceError
from engine.handover import Cutover, CutoverStore, Freezable, Freezer, KeepsCutovers, Sides
from engine.mapping.structure import wanted_counters
from engine.ops.log import printable
from engine.ops.notifications import Notification, NotificationData
from engine.recovery import places_of
from engine.remedies import rendered
from engine.report.parts import Server
from engine.schema import TableId
from engine.settings.loader import Settings

__all__ = ["CUTOVER", "described"]


def cutover(options: argparse.Namespace) -> int:
    """Switch the applications from the source to the target, step by step.

    The source is frozen, the target takes the rest of its log, every row is compared, sequences are
    set past the maxima, and the hook of [cutover] switches the applications. docs/cutover.md is
    the guide.

    Typed again after a crash, it goes on at the step that was under way. An error before the switch
    aborts: the source takes writes as before. The exit status is 0 only for a cutover that is done,
    a rehearsal that is done, and an abort that was asked for and is done.

    --dry-run looks whether a cutover could begin, and says what each step would do. --rehearse does
    all but the freeze and the switch, and predicts the downtime. --abort puts the source back.

    --report writes a page, or JSON, about what was done, for people who have to rely on it; with
    --status, about the newest cutover or rehearsal. `tailrace report verify FILE` checks that it
    was not changed.
    """
    settings, wanted = load_settings(options.config), wanted_report(options)
    if wanted is not None and options.dry_run:
        raise ConfigError("a dry run has no report", hint="--rehearse has one")
    shown = _Shown(options)
    try:
        return asyncio.run(_cutover(settings, options, shown, wanted))
    except Refused as refused:
        shown.refused(refused)
        return 1
    except KeyboardInterrupt:
        shown.say(
            "interrupted: if the freeze has begun, the source is still frozen."
            " `tailrace cutover CONFIG --status` says how to go on"
        )
        raise


def _add_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="check, and say what would be done")
    what.add_argument(
        "--rehearse", action="store_true", help="all but the freeze and the switch; may be repeated"
    )
    what.add_argument("--abort", action="store_true", help="put the source back as it was")
    what.add_argument(
        "--switched",
        action="store_true",
        help="go on after the step switch, which was begun: the applications write to the target",
    )
    what.add_argument(
        "--back", action="store_true", help="switch back after a cutover: says what that takes"
    )
    what.add_argument("--status", action="store_true", help="show the newest cutover")
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --abort: also if the switch was begun; no application may write to the target",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_report_options(parser, "of the cutover")


CUTOVER = Command(
    "cutover",
    "switch the applications to the target",
    cutover,
    _add_options,
)


class _Shown:
    """What is printed: a line before and after each step, as it happens, or JSON at the end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._json: bool = options.json
        self._config = str(options.config)

    def say(self, text: str) -> None:
        """Print a line for people, at once."""
        if self._json:
            return
        try:
            print(printable(rendered(text, config=self._config)), flush=True)
        except OSError:  # nobody reads it any more; what is under way goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def line(self, line: Line) -> None:
        """What a step will do, or what it did and how to undo it."""
        if not line.did:
            self.say(f"{line.step}: {STEPS[line.step].will}")
        else:
            self.say(f"  did: {line.did} ({line.seconds:.2f} s)")
            for warning in line.warnings:
                self.say(f"  warning: {warning}")
            self.say(f"  undo: {line.undo}")

    def refused(self, refused: Refused) -> None:
        """Why a cutover cannot begin, and what to do."""
        if self._json:
            print_json({"refused": [it._asdict() for it in refused.refusals]})
        for it in refused.refusals:
            self.say(f"refused: {it.reason}")
            if it.remedy:
                self.say(f"  what to do: {it.remedy}")
        self.say("nothing was changed" if not refused.hint else refused.hint)

    def ended(self, done: Cutover) -> None:
        """The result of a cutover, or of a rehearsal, that has ended."""
        if self._json:
            print_json(described(done))
        elif done.state == "done":
            self.say(
                f"done: the downtime was {done.downtime_seconds or 0.0:.2f} s{_compared(done)}"
            )
        elif done.state == "rehearsed":
            seconds = ", ".join(f"{step} {it:.2f} s" for step, it in done.predicted.items())
            self.say(
                f"rehearsed: the downtime would be {done.predicted_seconds or 0.0:.2f} s"
                f" ({seconds}), and the time of the hooks"
            )
        elif done.ended:
            self.say(f"{done.state}{f': {done.reason}' if done.reason else ''}")
        else:
            self.say(f"the source takes writes as before; {NOT_STORED}")


def described(cutover: Cutover | None) -> dict[str, object] | None:
    """The record as ``--json`` prints it, with the measured and the predicted downtime."""
    if cutover is None:
        return None
    return msgspec.structs.asdict(cutover) | {
        "downtime_seconds": cutover.downtime_seconds,
        "predicted_seconds": cutover.predicted_seconds,
    }


def _compared(done: Cutover) -> str:
    if done.predicted_seconds is None:
        return ""
    return f"; the rehearsal predicted {done.predicted_seconds:.2f} s and the time of the hooks"


async def _cutover(
    settings: Settings, options: argparse.Namespace, shown: _Shown, wanted: Wanted | None
) -> int:
    from engine.ops.notify import sending

    sink = make_sink(settings)
    if not isinstance(sink, KeepsCutovers):
        raise ConfigError(
            "applications cannot be switched to this target",
            hint="a cutover works with PostgreSQL as the target",
        )
    if options.status:
        newest = await sink.newest_cutover()
        if wanted is not None:
            write_cutover(wanted, newest, places(settings))
        switch_back = settings.cutover.switch_back.given
        return _show_status(newest, shown, as_json=options.json, switch_back=switch_back)
    if options.back:
        newest, switch_back = await sink.newest_cutover(), settings.cutover.switch_back.given
        raise _no_way_back(newest, switch_back=switch_back)
    if options.force and not options.abort:
        raise ConfigError("--force belongs to --abort")
    with closing(make_source(settings)) as source:
        if not isinstance(source, Freezable):
            raise ConfigError(
                "this source cannot be frozen",
                hint="a cutover works with a MySQL or MariaDB server as the source",
            )
        async with (
            sink.cutover_store() as store,
            sending(settings.notify, Counter()) as send,
        ):
            with closing(source.freezer()) as freezer:
                tell = _telling(shown, send, settings.pipeline.name, quiet=options.rehearse)
                config = str(options.config)
                parts = _parts(settings, config, (source, sink), freezer, store, tell)
                machine = Machine(parts)
                work = partial(_work, machine, options, shown)
                return await reported(work, store, wanted, places_of(source))


def _no_way_back(newest: Cutover | None, *, switch_back: bool) -> TailraceError:
    """Why nothing can be switched back, as things stand."""
    if newest is None or newest.switched_at is None:
        return TailraceError(
            "there is nothing to switch back: no cutover of this pipeline has switched",
            hint="" if newest is None else way_on(newest, switch_back=switch_back),
        )
    first = "" if newest.ended else "`tailrace cutover CONFIG` ends the cutover first; "
    return TailraceError(
        "there is no way back: no reverse pipeline exists, so the source lacks what applications"
        " have written to the target since the switch",
        hint=f"{first}to give these changes up, have the applications use the source again, and let"
        " it take writes: set super_read_only and read_only to OFF, or call your hook thaw. Then"
        " `tailrace reset CONFIG --drop` lets an engine begin anew",
    )


def _parts(
    settings: Settings,
    config: str,
    ends: tuple[Source, Sink],
    freezer: Freezer,
    store: CutoverStore,
    tell: Callable[[Line], None],
) -> Parts:
    from engine.cutover.hooks import Hooks

    source, sink = ends
    return Parts(
        source=source,
        sink=sink,
        freezer=freezer,
        store=store,
        engine=engine_of(store_of(sink)),
        hooks=Hooks(settings.cutover, settings.pipeline.name),
        settings=settings.cutover,
        compare=lambda names: compare(settings, config, names=names),
        differences=lambda: schema_differences(settings, sink),
        counters=lambda state: _counters(settings, source, state),
        outdated=lambda state: _outdated(settings, source, state),
        tell=tell,
        by=user(),
        pipeline=settings.pipeline.name,
        sides=lambda: _sides(settings, source, sink),
    )


async def _counters(
    settings: Settings, source: Source, state: State
) -> Mapping[TableId, structure.Counter]:
    """The counters of the source now, by table of the target."""
    if not isinstance(source, structure.DescribesSchema):
        return {}
    tables = [it for table in state.tables for it in table.sources]
    found = await asyncio.to_thread(source.counters, tables)
    return wanted_counters(make_mapping(settings), tables, found)


def _outdated(settings: Settings, source: Source, state: State) -> Mapping[TableId, str]:
    """The tables whose stored rows the configuration of now would make otherwise, and why."""
    state = make_mapping(settings).restore(state)
    own = source.outdated(state.tables) if isinstance(source, ReadsByPolicy) else {}
    return {**own, **state.outdated}


async def _work(machine: Machine, options: argparse.Namespace, shown: _Shown) -> int:
    if options.dry_run:
        ready = await machine.check()
        shown.say("a cutover would do this:")
        for name, words in STEPS.items():
            if name not in ("check", "abort"):
                shown.say(f"{name}: {words.will}")
                shown.say(f"  undo: {machine.undo(name)}")
        if options.json:
            print_json({"ready": True, "warnings": ready.warnings})
    else:
        if options.rehearse:
            wanted, ended = "rehearsed", await machine.rehearse()
        elif options.abort:
            wanted, ended = "aborted", await machine.abort(force=options.force)
        else:
            wanted, ended = "done", await machine.run(switched=options.switched)
        shown.ended(ended)
        return int(ended.state != wanted)
    return 0


def _show_status(found: Cutover | None, shown: _Shown, *, as_json: bool, switch_back: bool) -> int:
    if as_json:
        print_json(described(found))
    elif found is None:
        shown.say("there was no cutover of this pipeline")
    else:
        began = datetime.fromtimestamp(found.started_at, UTC)
        shown.say(f"{found.state}, begun {began:%Y-%m-%d %H:%M:%S} UTC by {found.by}")
        for step in found.steps:
            shown.say(f"  {step.step}: {step.did} ({step.seconds:.2f} s)")
            if undo := undo_now(found, step):
                shown.say(f"    undo: {undo}")
        if found.reason:
            shown.say(f"  reason: {found.reason}")
        if not found.ended and found.frozen_at is not None:
            shown.say(f"  the source was frozen {time.time() - found.frozen_at:.0f} s ago")
        if way := way_on(found, switch_back=switch_back):
            when = "" if found.ended else "when no process works on it any more: "
            shown.say(f"{when}{way}")
    return 0


async def _sides(settings: Settings, source: Source, sink: Sink) -> Sides:
    """The versions and addresses of both sides."""

    def server(side: str, end: Source | Sink, of: object) -> Server:
        with closing(rows_of(side, end)) as reader:
            return server_of(reader, of)

    there = await asyncio.to_thread(server, "source", source, settings.source)
    here = await asyncio.to_thread(server, "sink", sink, settings.sink)
    version = version_and_codecs()[0]
    return Sides(version, there.software, there.address, here.software, here.address)


def _telling(
    shown: _Shown,
    send: Callable[[Sequence[Notification]], None] | None,
    pipeline: str,
    *,
    quiet: bool,
) -> Callable[[Line], None]:
    """Prints each line, and notifies the receivers of what was done, unless ``quiet``."""

    def tell(line: Line) -> None:
        shown.line(line)
        if send is None or quiet or not line.did:
            return
        data = NotificationData(pipeline=pipeline, text=line.did, state=line.step)
        id = f"msg_{uuid.uuid4().hex}"
        send([Notification(id, f"cutover.{line.step}", datetime.now(UTC), data)])

    return tell
