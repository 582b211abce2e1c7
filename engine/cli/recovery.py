"""
The commands by which a stopped table or pipeline goes on: ``tables``, ``backfill``,
``quarantine``, ``skip``, ``dead-letters``, ``reset``.

What changes a pipeline is stored in the target as a command (``engine.cli.inbox``), so it works
whether or not an engine runs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from engine.change import TWIN_PREFIX
from engine.cli.command import Command
from engine.cli.inbox import add_deadline, give, target_of
from engine.cli.output import print_json, print_tables
from engine.cli.stored import refuse_unknown, stored_state
from engine.cli.wiring import load_settings, make_sink, make_source
from engine.commands import BackfillTables, CommandStore, Letters, QuarantineTables, Skip
from engine.contract import Sink
from engine.errors import ConfigError, DecodeError, SourceError
from engine.handover import is_switched, known_cutover
from engine.ops.log import printable
from engine.ops.status import TableStatus, table_status
from engine.pipeline.dead_letters import letter_line
from engine.pipeline.stored_commands import find_tables
from engine.proof import read_proofs
from engine.recovery import (
    DeadLetter,
    DeadLetterStore,
    LostChanges,
    PassesOver,
    Resettable,
    count_dead_letters,
)
from engine.remedies import BACKFILL as BACKFILL_TABLE
from engine.remedies import BACKFILL_ALL, rendered
from engine.settings.loader import Settings

__all__ = [
    "BACKFILL",
    "DEAD_LETTERS",
    "QUARANTINE",
    "RESET",
    "SKIP",
    "TABLES",
    "add_yes",
    "agreed",
]


def tables(options: argparse.Namespace) -> int:
    """Show the state of each table, and why a table is quarantined, with what to type.

    Reads the checkpoint in the target. docs/recovery.md says how each stop ends. Exit status 2: the
    pipeline has never run; 3: tables are quarantined, or have dead letters.
    """
    settings = load_settings(options.config)
    found = asyncio.run(_tables(make_sink(settings), str(options.config)))
    if options.json:
        print_json(found)
    else:
        from engine.cli.tables import progress_table

        print_tables(progress_table(found))
    return 3 if any(it.state == "quarantined" or it.dead_letters for it in found) else 0


def _add_tables_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")


TABLES = Command("tables", "the state of each table, and its remedy", tables, _add_tables_options)


async def _tables(sink: Sink, config: str) -> tuple[TableStatus, ...]:
    """The status of all tables, also of those that are not selected any more."""
    _, checkpoint = await stored_state(sink)
    letters, proofs = await count_dead_letters(sink), await read_proofs(sink)
    return tuple(
        table_status(str(id), it, config, letters.get(id, 0), proofs.get(id))
        for id, it in sorted(checkpoint.progress.items())
    )


def backfill(options: argparse.Namespace) -> int:
    """Read tables again from the source, while the others go on.

    TABLE is schema.table as on the source, or a pattern such as 'shop.*'. With --all, every table
    is read again and the stream goes on at the end of the log: also where the log is purged, reset,
    or that of another server.

    The rows go to a twin, which replaces the table in one transaction when it is complete, so
    readers of the target never see half a table. A quarantined table is followed again.

    With --in-place there is no twin: the rows take the place of those in the table, by its key, and
    rows that the source does not have are deleted. Readers see older rows next to newer ones until
    the table is live.

    A running engine begins within seconds; without one, the next `tailrace run` does. Exit status
    1: the engine refused the command, or it did not answer in time.
    """
    return asyncio.run(_backfill(target_of(options), options))


async def _backfill(sink: Sink | None, options: argparse.Namespace) -> int:
    if bool(options.tables) == options.all:
        raise ConfigError("name tables, or --all", hint=f"{BACKFILL_TABLE}; {BACKFILL_ALL}")
    await _require_known(options.tables, sink)
    return await give(
        sink, BackfillTables(tuple(options.tables), options.in_place, options.all), options
    )


def _add_backfill_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tables", nargs="*", default=[], metavar="TABLE", help="schema.table on the source"
    )
    parser.add_argument("--all", action="store_true", help="all tables, from the log's end on")
    parser.add_argument("--in-place", action="store_true", help="without a second table")
    add_deadline(parser)


BACKFILL = Command("backfill", "read tables again", backfill, _add_backfill_options, takes_api=True)


def quarantine(options: argparse.Namespace) -> int:
    """Stop following tables, while the others go on. The target keeps their rows as they are.

    TABLE is schema.table as on the source, or a pattern such as 'shop.*'. `tailrace backfill` reads
    the tables again, and follows them again.

    A running engine executes it within seconds; without one, the next `tailrace run` does. Exit
    status 1: the engine refused the command, or it did not answer in time.
    """
    return asyncio.run(_quarantine(target_of(options), options))


async def _quarantine(sink: Sink | None, options: argparse.Namespace) -> int:
    await _require_known(options.tables, sink)
    return await give(sink, QuarantineTables(tuple(options.tables)), options)


async def _require_known(names: Sequence[str], sink: Sink | None) -> None:
    """Raise ConfigError unless all these names and patterns have tables, as far as the target
    tells. Without it the engine refuses those that have none.
    """
    if sink is None:
        return
    _, checkpoint = await stored_state(sink)
    _, unknown = find_tables(tuple(names), checkpoint.progress)
    refuse_unknown(unknown, checkpoint.progress)


def _add_quarantine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="schema.table on the source")
    add_deadline(parser)


QUARANTINE = Command(
    "quarantine", "stop following tables", quarantine, _add_quarantine_options, takes_api=True
)


def skip(options: argparse.Namespace) -> int:
    """Pass over a statement, or a transaction, of the log that stops the pipeline.

    What it changes is missing on the target until the tables are read again (`tailrace backfill`);
    `tailrace verify` finds it. The message of the stop names the position. The target's table
    tailrace.command keeps who did it.
    """
    settings = load_settings(options.config)
    return asyncio.run(_skip(settings, options))


async def _skip(settings: Settings, options: argparse.Namespace) -> int:
    sink = make_sink(settings)
    _, checkpoint = await stored_state(sink)
    whole = options.transaction is not None
    place = options.transaction if whole else options.statement
    found, unknown = await asyncio.to_thread(_lost, settings, checkpoint.position, place, whole)
    what = (
        "the transaction that begins"
        if whole
        else "the transaction with the statement that ends"
        if found is not None and found.whole
        else "the statement, or the rows, whose event ends"
    )
    lost = (
        f"{what} at {place} of the source's log will not be applied: what it changes is missing on"
        " the target, until the tables that it changes are read again"
    )
    changes = [f"  it could not be read: {unknown}"] if found is None else lost_lines(found)
    lines = [lost, *changes]
    if not agreed("\n".join(map(printable, lines)), options):
        return 1
    return await give(sink, Skip(place, whole), options)


def _lost(
    settings: Settings, position: str, place: str, whole: bool
) -> tuple[LostChanges | None, str]:
    """What is lost, or why that is not known. Raises ConfigError if there is no such place."""
    source = make_source(settings)
    if not isinstance(source, PassesOver):
        raise ConfigError("this source cannot pass over a part of its log")
    try:
        return source.lost(position, place, whole=whole), ""
    except (SourceError, DecodeError) as error:
        return None, error.message
    finally:
        source.close()


def lost_lines(lost: LostChanges) -> list[str]:
    """What is lost, in lines."""
    lines = [
        f"  {table}: {count:,} {'row' if count == 1 else 'rows'} {operation.rstrip('e')}ed"
        for (table, operation), count in sorted(lost.rows.items())
    ]
    lines += [f"  the statement {statement} …" for statement in lost.statements]
    lines += [f"  {what}, which cannot be read" for what in lost.unreadable]
    return lines or ["  it changes no rows"]


def _add_skip_options(parser: argparse.ArgumentParser) -> None:
    places = parser.add_mutually_exclusive_group(required=True)
    places.add_argument("--statement", metavar="POSITION", help="the end of an event")
    places.add_argument("--transaction", metavar="POSITION", help="where a transaction begins")
    add_yes(parser)
    add_deadline(parser)


SKIP = Command("skip", "pass over a part of the log", skip, _add_skip_options)


def dead_letters(options: argparse.Namespace) -> int:
    """Rows that the target refused, with later changes of their keys, which wait behind them.

    list: the open ones, without values but the key's. show: with their values, also closed ones.
    retry: apply open ones in order, when the cause is removed. discard: close open ones without
    applying them; the target then differs from the source. ID: numbers of letters; without any,
    all. Exit status 3: letters are open (list).
    """
    if options.api:
        return asyncio.run(_letters_through_api(options))
    return asyncio.run(_dead_letters(make_sink(load_settings(options.config)), options))


async def _letters_through_api(options: argparse.Namespace) -> int:
    """Retry or discard, without a look at the letters, which only the target has."""
    if options.action in ("list", "show"):
        raise ConfigError(
            "the API does not show dead letters, because they contain values of rows",
            hint="`tailrace dead-letters CONFIG list` reads them in the target",
        )
    if options.action == "discard":
        which = f"the dead letters {', '.join(map(str, options.ids))}"
        lost = f"the changes of {which if options.ids else 'all open dead letters'} are discarded."
        if not agreed(f"{lost} The target lacks them for good", options):
            return 1
    return await give(None, Letters(options.action, tuple(options.ids), not options.ids), options)


async def _dead_letters(sink: Sink, options: argparse.Namespace) -> int:
    await stored_state(sink)
    if not isinstance(sink, DeadLetterStore):
        raise ConfigError("this target keeps no dead letters", hint="PostgreSQL does")
    letters = await sink.read_dead_letters()
    shows = options.action == "show"
    chosen = _with_numbers([it for it in letters if shows or it.outcome is None], options)
    if not chosen:
        print(f"there are no {'' if shows else 'open '}dead letters")
        return 0
    if options.action in ("list", "show"):
        print("\n".join(letter_line(it, values=shows) for it in chosen))
        return 0 if shows else 3
    if options.action == "discard":
        lost = f"changes that are discarded: {len(chosen):,}. The target lacks them for good"
        if not agreed(lost, options):
            return 1
    # Letters that arrive meanwhile are retried, too, but not discarded: nobody has agreed to that.
    named = options.ids or options.action == "discard"
    ids = tuple(it.id for it in chosen) if named else ()
    return await give(sink, Letters(options.action, ids, not ids), options)


def _with_numbers(letters: list[DeadLetter], options: argparse.Namespace) -> list[DeadLetter]:
    """The letters that are asked for, or all. Raises ConfigError if one is not among them."""
    if unknown := sorted(set(options.ids) - {letter.id for letter in letters}):
        kind = "dead letter" if options.action == "show" else "open dead letter"
        raise ConfigError(
            f"no {kind} has the number {', '.join(map(str, unknown))}",
            hint="`tailrace dead-letters CONFIG list` lists the open ones, show also closed ones",
        )
    return [letter for letter in letters if not options.ids or letter.id in options.ids]


def _add_letter_options(parser: argparse.ArgumentParser) -> None:
    actions = ("list", "show", "retry", "discard")
    parser.add_argument("action", choices=actions, metavar="|".join(actions))
    parser.add_argument(
        "ids", nargs="*", default=[], type=int, metavar="ID", help="the number of a letter"
    )
    add_yes(parser)
    add_deadline(parser)


DEAD_LETTERS = Command(
    *("dead-letters", "rows that the target refused", dead_letters, _add_letter_options),
    takes_api=True,
)


def reset(options: argparse.Namespace) -> int:
    """Forget the state of a pipeline: its position, and which tables it follows.

    The tables stay on the target as they are, and belong to no pipeline; with --drop they are
    dropped. The next `tailrace run` begins anew, and refuses tables that exist and are not empty.
    The engine has to be stopped.
    """
    settings = load_settings(options.config)
    return asyncio.run(_reset(settings, options))


async def _reset(settings: Settings, options: argparse.Namespace) -> int:
    sink, name = make_sink(settings), settings.pipeline.name
    if not isinstance(sink, Resettable):
        raise ConfigError(
            "the state of this target cannot be reset by a command",
            hint="delete what it has stored, such as the folder of jsonl:",
        )
    state = await sink.state()
    if state is None:
        print(f"the target holds no state of the pipeline {name}")
        return 0
    if isinstance(sink, CommandStore):
        async with sink.command_client() as client:
            if await client.engine_runs():
                raise ConfigError(
                    "an engine runs this pipeline", hint="stop it first: `tailrace stop CONFIG`"
                )
    count = sum(not table.id.name.startswith(TWIN_PREFIX) for table in state.tables)
    cutover = await known_cutover(sink)
    what = f"the position of the pipeline {name} and the progress of {count:,} tables are forgotten"
    if options.drop:
        what += f", and these {count:,} tables are dropped from the target with all their rows"
        if is_switched(cutover):
            what += ", also those that applications have written since the cutover"
    if cutover is not None and not cutover.ended:
        status = rendered("`tailrace cutover CONFIG --status`", config=str(options.config))
        what += (
            f". A cutover is under way, which stands at {cutover.state}, and the source may be"
            f" frozen: {status} says what ends it"
        )
    if not agreed(what, options):
        return 1
    dropped = await sink.reset(drop=options.drop)
    print(f"the pipeline {name} is forgotten, {dropped:,} tables are dropped")
    return 0


def _add_reset_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--drop", action="store_true", help="drop the tables, too")
    add_yes(parser)


RESET = Command("reset", "forget a pipeline's state", reset, _add_reset_options)


def add_yes(parser: argparse.ArgumentParser) -> None:
    """The option of a command that asks before it acts."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def agreed(what: str, options: argparse.Namespace) -> bool:
    """Say what is lost, and ask. Raises ConfigError if there is nobody to ask."""
    print(what)
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("this has to be confirmed", hint="type it in a terminal, or add --yes")
    return input("Do it? [y/N] ").strip().lower() in ("y", "yes")
