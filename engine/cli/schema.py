"""
The command ``schema``: compare the schemas of both sides, and create on the target what it lacks.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.cli.command import Command
from engine.cli.output import print_json, write_records
from engine.cli.recovery import add_yes, agreed
from engine.cli.stored import stored_state
from engine.cli.wiring import load_settings, make_mapping, make_sink, make_source
from engine.contract import Sink, SnapshotSource, State
from engine.errors import ConfigError, SinkLost, TailraceError
from engine.mapping.structure import wanted_tables
from engine.ops.log import printable
from engine.ops.words import counted
from engine.remedies import rendered
from engine.schema import Table
from engine.settings.loader import Settings
from engine.structure import ComparesSchema, DescribesSchema, Hidden
from engine.toolkit.schema_diff import Difference, differences

__all__ = ["SCHEMA", "SchemaReport", "schema_differences", "schema_lines"]

#: The kind of differences that `apply` leaves alone without --foreign-keys.
FOREIGN_KEY = "foreign key"


class SchemaReport(msgspec.Struct, frozen=True):
    """The result of ``schema diff``. ``tables`` is the number of tables that were compared."""

    equal: bool
    tables: int
    differences: list[Difference]


class Outcome(msgspec.Struct, frozen=True):
    """What ``schema apply`` did about a difference. ``error`` is empty if it is gone."""

    kind: str
    table: str
    name: str
    statements: tuple[str, ...]
    error: str = ""
    hint: str = ""


class _Found(NamedTuple):
    report: SchemaReport
    state: State


def schema(options: argparse.Namespace) -> int:
    """Compare the schemas of both sides, and create on the target what it lacks.

    diff: list the differences in columns, types, NOT NULL, defaults, keys, indexes, foreign keys,
    checks, identity columns, comments, sequences, views, triggers, routines and events, each with
    the statements that remove it, or with advice. Exit status 0: equal; 3: different.

    apply: execute these statements, each in a transaction of its own. Nothing is dropped but an
    index that is not valid. It can be interrupted and repeated at any place. Foreign keys are left
    out without --foreign-keys: create them at the cutover. Exit status 1: a statement was refused.
    """
    settings = load_settings(options.config)
    run = _diff if options.action == "diff" else _apply
    return asyncio.run(run(settings, options))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("diff", "apply"), metavar="diff|apply")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the TOML configuration")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--dry-run", action="store_true", help="apply: print the SQL alone")
    parser.add_argument(
        "--foreign-keys", action="store_true", help="apply: create foreign keys, too"
    )
    add_yes(parser)


SCHEMA = Command(
    *("schema", "compare schemas, and complete the target's", schema, _add_options),
    takes_config=False,
)


async def schema_differences(settings: Settings, sink: Sink) -> list[Difference]:
    """The differences between the schemas of both sides. Raises ConfigError if they cannot be
    compared.
    """
    return (await _find(settings, sink)).report.differences


async def _diff(settings: Settings, options: argparse.Namespace) -> int:
    report = (await _find(settings, make_sink(settings))).report
    if options.json:
        print_json(report)
    else:
        config = str(options.config)
        write_records([f"{line}\n".encode() for line in schema_lines(report, config)])
    return 0 if report.equal else 3


async def _apply(settings: Settings, options: argparse.Namespace) -> int:
    sink = make_sink(settings)
    found = await _find(settings, sink)
    assert isinstance(sink, ComparesSchema)
    chosen = [
        it
        for it in sorted(found.report.differences, key=lambda it: it.kind == FOREIGN_KEY)
        if it.statements and (options.foreign_keys or it.kind != FOREIGN_KEY)
    ]
    if options.dry_run:
        lines = [f"{printable(sql)};" for it in chosen for sql in it.statements]
        write_records([f"{line}\n".encode() for line in lines])
        return 0
    if options.foreign_keys and found.state.running is not False:
        reason = await sink.why_no_foreign_keys()
        if reason:
            raise ConfigError(reason, hint="stop the engine first: `tailrace stop CONFIG`")
    outcomes: list[Outcome] = []
    if chosen:
        count = sum(len(it.statements) for it in chosen)
        if not options.yes or not options.json:
            statements = counted(count, "statement", "statements")
            removed = counted(len(chosen), "difference", "differences")
            print(f"{statements} for {removed}; --dry-run prints them")
        if not options.yes and not agreed("The target's tables are altered", options):
            return 1
        for difference in chosen:
            outcomes.append(await _execute(sink, difference))
            if not options.json:
                write_records([f"{_outcome_line(outcomes[-1])}\n".encode()])
    if options.json:
        print_json(outcomes)
    elif not chosen:
        print("there is nothing to create")
    return int(any(it.error for it in outcomes))


async def _execute(sink: ComparesSchema, difference: Difference) -> Outcome:
    """Remove one difference. A statement that is refused does not keep the others from it."""
    it = difference
    done = Outcome(it.kind, it.table, it.name, it.statements)
    try:
        await sink.execute_alone(it.statements)
    except SinkLost:
        raise
    except TailraceError as error:
        return msgspec.structs.replace(done, error=error.message, hint=error.hint)
    return done


async def _find(settings: Settings, sink: Sink) -> _Found:
    state, checkpoint = await stored_state(sink)
    with closing(make_source(settings)) as source:
        if not isinstance(source, SnapshotSource) or not isinstance(source, DescribesSchema):
            raise ConfigError(
                "the schemas of this source cannot be read",
                hint="`tailrace schema diff CONFIG` compares a MySQL or MariaDB server with"
                " PostgreSQL",
            )
        if not isinstance(sink, ComparesSchema):
            raise ConfigError(
                "the schemas of this target cannot be compared", hint="use PostgreSQL"
            )
        tables = await asyncio.to_thread(source.catalog)
        structure = await asyncio.to_thread(source.structure, tables)
    progress = checkpoint.progress
    live = [it for it in tables if it.id in progress and progress[it.id].state == "live"]
    wanted = wanted_tables(make_mapping(settings), live, structure)
    found = differences(*await sink.schema_items(wanted, structure.programs))
    not_live = map(_not_live, (it for it in tables if it not in live))
    found = [*not_live, *map(_hidden, structure.hidden), *found]
    equal = all(it.note for it in found)
    return _Found(SchemaReport(equal, len(wanted), found), state)


def _not_live(table: Table) -> Difference:
    advice = "it is not live on the target yet: `tailrace tables CONFIG` shows its state"
    return Difference("table", str(table.id), "", "missing", advice=advice)


def _hidden(it: Hidden) -> Difference:
    """What cannot be compared. The target has no events, so it lacks nothing that it could have."""
    advice = f"the user of the source may not see them: {it.grant} TO <user>"
    return Difference(it.kind, it.schema, "", "unknown", advice=advice, note=it.kind == "event")


def schema_lines(report: SchemaReport, config: str) -> Iterator[str]:
    """The differences of each table, and what creates what the target lacks."""
    for table, members in groupby(report.differences, key=lambda it: it.table):
        yield printable(table)
        for it in members:
            state = "note" if it.note else it.state
            yield f"  {state:<11}{printable(' '.join((it.kind, it.name)).strip())}"
            if it.wanted and it.wanted != it.found:
                yield f"    wanted   {printable(it.wanted)}"
            if it.found:
                yield f"    found    {printable(it.found)}"
            for sql in it.statements:
                yield f"    {printable(sql)};"
            if it.advice and not it.statements:
                yield f"    {printable(rendered(it.advice, config=config))}"
    tables = counted(report.tables, "table", "tables")
    if report.equal:
        yield f"the schemas are equal: {tables}"
        return
    number = sum(not it.note for it in report.differences)
    yield f"{counted(number, 'difference', 'differences')} in {tables}"
    ways = {
        "to create what the target lacks: `tailrace schema apply CONFIG`": False,
        "to create its foreign keys, too: `tailrace schema apply CONFIG --foreign-keys`": True,
    }
    for way, foreign in ways.items():
        if any(it.statements and foreign == (it.kind == FOREIGN_KEY) for it in report.differences):
            yield printable(rendered(way, config=config))


def _outcome_line(outcome: Outcome) -> str:
    what = f"{outcome.table}: {outcome.kind} {outcome.name}".rstrip()
    if not outcome.error:
        return printable(f"done     {what}")
    return printable(f"refused  {what}: {outcome.error.rstrip('.')}. {outcome.hint}".rstrip())
