"""
The commands that inspect a pipeline: ``check`` and ``status``.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from engine.checkpoint import Checkpoint
from engine.cli.address import check_address
from engine.cli.api_address import address_of
from engine.cli.checked import Checked
from engine.cli.command import Command
from engine.cli.directory import is_directory, show_status
from engine.cli.edits import mapped_tables, outdated_tables
from engine.cli.inbox import user
from engine.cli.output import print_json, print_tables
from engine.cli.stored import stored_state
from engine.cli.wiring import load_settings, make_mapping, make_sink, make_source
from engine.contract import (
    Capabilities,
    ChecksPosition,
    Finding,
    SnapshotSource,
    Source,
    State,
)
from engine.errors import ConfigError, SchemaError, SourceLost, TailraceError
from engine.log_status import DescribesLog, LogAhead, clock_ahead_of, now_at
from engine.ops.status import Status, TableStatuses
from engine.ops.table_counters import TableCounters
from engine.pipeline.selection import selected
from engine.proof import read_proofs
from engine.recovery import DeadLetterStore, PassesOver, count_dead_letters
from engine.remedies import rendered
from engine.schema import Table, TableId
from engine.settings.loader import Settings

__all__ = ["CHECK", "STATUS"]

#: The states of an engine that applies nothing.
HALTED = ("connecting", "paused", "stopped")


def check(options: argparse.Namespace) -> int:
    """Inspect source and target, and list what is missing, with its remedy. Changes nothing.

    Exit status 0: ready, perhaps with warnings; 1: `tailrace run` would fail; 2: it would fail
    because the configuration is wrong.

    With --grants, print the statements that give the users of the configuration the rights that it
    needs, and no more. The users need not exist yet.

    CONFIG may be a directory that `tailrace run` runs: all of its pipelines are inspected, and the
    address of the supervisor. The exit status is the greatest.
    """
    if options.config.is_dir():
        return _check_directory(options)
    settings = load_settings(options.config)
    if options.grants:
        from engine.cli.grants import show_grants

        return show_grants(settings, as_json=options.json)
    checked = asyncio.run(_check(settings, options.config))
    if options.json:
        print_json(checked.findings)
    else:
        from engine.cli.tables import findings_table

        print_tables(findings_table(checked.findings))
    return checked.exit_status


def _check_directory(options: argparse.Namespace) -> int:
    from engine.cli.check_directory import check_directory

    if options.grants:
        raise ConfigError(
            "--grants is for one pipeline", hint="name the configuration of one pipeline"
        )
    return check_directory(options.config, _check, as_json=options.json)


def _add_check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--grants", action="store_true", help="print the rights that the users need, as SQL"
    )


CHECK = Command("check", "inspect source and target before a run", check, _add_check_options)


async def _check(settings: Settings, config: Path) -> Checked:
    """Inspect source and target of one pipeline."""
    found, exit_status, runs = await _findings(settings)
    return Checked([_rendered(it, config) for it in found], exit_status, runs)


async def _findings(settings: Settings) -> Checked:
    sink = make_sink(settings)
    tables: list[Table] = []
    findings: list[Finding] = []
    exit_status = 0
    with closing(make_source(settings)) as source:
        try:
            findings += await asyncio.to_thread(source.check)
            if isinstance(source, SnapshotSource):
                tables, refused = await asyncio.to_thread(_catalog, source)
                findings += (each for each in refused if each not in findings)
                exit_status = 0 if tables or refused else ConfigError.exit_status
        except TailraceError as error:
            findings.append(_as_finding("source", error, "CK001"))
            exit_status = error.exit_status
        findings.append(_guarantee(sink.capabilities))
        state, unknown = None, None
        try:
            state = await sink.state()
        except TailraceError as error:
            unknown = error
        used = unknown is not None or (state is not None and state.running is not False)
        address, status = await check_address(settings.api, used=used)
        exit_status = status or exit_status
        findings += address
        try:
            mapping = make_mapping(settings)
            targets, found = mapped_tables(mapping, tables, state)
        except TailraceError as error:
            findings.append(_as_finding("mapping", error, "CK006"))
            return Checked(findings, max(exit_status, error.exit_status), used)
        try:
            if unknown is not None:
                raise unknown
            findings += found + await sink.check(targets)
        except TailraceError as error:
            findings.append(_as_finding("target", error, "CK002"))
            return Checked(findings, max(exit_status, error.exit_status), used)
        try:
            findings += await asyncio.to_thread(outdated_tables, source, mapping, state, settings)
            await asyncio.to_thread(_check_stored, source, state)
        except SourceLost:
            pass  # it is among the findings about the source
        except ConfigError as error:
            findings.append(_as_finding("tables", error, "CK008"))
            exit_status = error.exit_status
        except TailraceError as error:
            findings.append(_as_finding("position", error, "CK005"))
    exit_status = exit_status or int(any(finding.level == "error" for finding in findings))
    return Checked(findings, exit_status, used)


def _catalog(source: SnapshotSource) -> tuple[list[Table], list[Finding]]:
    """The tables that can be followed, and findings about those that cannot."""
    findings: list[Finding] = []
    refused: set[TableId] = set()
    while True:
        try:
            return source.catalog(refused), findings
        except SchemaError as error:
            # A name may contain a dot.
            parts = (error.table or "").split(".")
            splits = range(1, len(parts))
            found = {TableId(".".join(parts[:n]), ".".join(parts[n:])) for n in splits}
            if found <= refused:
                raise
            refused |= found
            findings.append(
                Finding("error", error.table or "source", error.message, error.hint, code="CK003")
            )


def _guarantee(can: Capabilities) -> Finding:
    """The guarantee of the sink, and its limits."""
    parts = [f"each change is applied {can.guarantee}"]
    if not can.transactional:
        parts.append("a transaction that is applied in part cannot be undone")
    if not can.upsert:
        parts.append("a row that changes during its table's backfill may be stored twice")
    if not can.schema_changes:
        parts.append("altered, renamed and dropped tables are not followed")
    if not can.cascades:
        parts.append("a table that a foreign key changes without logging it is quarantined")
    level: Literal["ok", "warning"] = "ok" if can.guarantee == "exactly once" else "warning"
    return Finding(level, "guarantee", "; ".join(parts), code="" if level == "ok" else "CK004")


def _rendered(finding: Finding, config: Path) -> Finding:
    """The finding with the names in its action that it stands for."""
    action = finding.action
    if "`tailrace check " in action:  # the hint of an error that a run has, too
        action = "grant the right that the message names, and check again"
    action = rendered(action, config=str(config), table=finding.subject)
    return msgspec.structs.replace(finding, action=action)


def _as_finding(subject: str, error: TailraceError, code: str) -> Finding:
    return Finding("error", subject, str(error), error.hint, code)


def status(options: argparse.Namespace) -> int:
    """Show the pipeline's position and lag, and the state of each table.

    Reads the checkpoint in the target, and asks the source for the end of its log. docs/status.md
    describes the fields. Exit status 1: no engine is connected to the target, or the stream cannot
    resume, such as after the log was purged; 2: the pipeline has never run.

    With --api the engine itself is asked. Exit status 1: it does not answer, or nothing is applied,
    because it is paused or has no connection to the source or the target.

    CONFIG may be a directory that `tailrace run` runs: its supervisor is asked for the state of all
    pipelines. Exit status 1: it does not answer, or a pipeline does not go on by itself.
    """
    if is_directory(options):
        return show_status(options)
    if options.api:
        found = asyncio.run(_engine_status(options))
    else:
        found = asyncio.run(_status(load_settings(options.config), str(options.config)))
    if options.json:
        print_json(found)
    else:
        from engine.cli.tables import status_table

        print_tables(status_table(found))
    halted = found.running is False or found.state in HALTED
    return 1 if halted or found.problem else 0


async def _engine_status(options: argparse.Namespace) -> Status:
    """The status as the engine tells it through the API."""
    from engine.cli.api_client import connect

    async with connect(address_of(options.api, options), user()) as client:
        return await client.status()


def _add_status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the status as JSON")


STATUS = Command(
    *("status", "position, lag and the state of each table", status, _add_status_options),
    takes_api=True,
)


async def _status(settings: Settings, config: str) -> Status:
    """The status as the target and the source tell it. The engine is not asked."""
    sink = make_sink(settings)
    state, checkpoint = await stored_state(sink)
    letters = await count_dead_letters(sink)
    noted = TableCounters()
    noted.proven(await read_proofs(sink))
    with closing(make_source(settings)) as source:
        found = Status(
            pipeline=settings.pipeline.name,
            epoch=state.epoch,
            position=checkpoint.position,
            place=source.place(checkpoint.position) if isinstance(source, PassesOver) else "",
            committed_position=checkpoint.position,
            lag_seconds=_age(checkpoint, source),
            running=state.running,
            dead_letters=sum(letters.values()) if isinstance(sink, DeadLetterStore) else None,
            tables=TableStatuses(config).of(checkpoint.progress, letters, noted),
        )
        try:
            lag_bytes, ahead = await asyncio.to_thread(_backlog, source, state)
        except TailraceError as error:
            remedy = rendered(error.hint, config=config)
            return msgspec.structs.replace(found, problem=str(error), remedy=remedy)
    if checkpoint.paused:
        remedy = rendered("`tailrace resume CONFIG`", config=config)
        found = msgspec.structs.replace(
            found, state="paused", problem="the pipeline is paused", remedy=remedy
        )
    return msgspec.structs.replace(
        found,
        lag_seconds=0.0 if lag_bytes == 0 else _age(checkpoint, source),
        lag_bytes=lag_bytes,
        lag_transactions=ahead.transactions,
        clock_ahead_seconds=clock_ahead_of(source),
        log_kept_seconds=ahead.kept_seconds,
    )


def _backlog(source: Source, state: State) -> tuple[int | None, LogAhead]:
    """The bytes of log after the checkpoint, or None if they are unknown; and what else the source
    knows of its log.

    Raises ``TailraceError`` if a stream cannot resume at the checkpoint.
    """
    assert state.checkpoint is not None
    position = state.checkpoint.position
    _check_position(source, state)
    level = source.reached(position, source.position())
    ahead = LogAhead()
    if isinstance(source, DescribesLog):
        age = 0.0 if level else _age(state.checkpoint, source)
        ahead = source.log_ahead(position, age or 0.0)
    return (0 if level else source.backlog(position)), ahead


def _age(checkpoint: Checkpoint, source: Source) -> float | None:
    """How old the target's state is, by the clock of the source if that was compared; None if it is
    not known.
    """
    return max(0.0, now_at(source) - checkpoint.committed_at) if checkpoint.committed_at else None


def _check_stored(source: Source, state: State | None) -> None:
    """Raise ``TailraceError`` if the source does not fit the checkpoint."""
    if state is not None and state.checkpoint is not None:
        selected(source, state.checkpoint.progress)
    _check_position(source, state)


def _check_position(source: Source, state: State | None) -> None:
    """Raise ``TailraceError`` if a stream cannot resume at the checkpoint."""
    if isinstance(source, ChecksPosition) and state is not None and state.checkpoint is not None:
        tables = [source_table for table in state.tables for source_table in table.sources]
        source.check_position(state.checkpoint.position, tables)
