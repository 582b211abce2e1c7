"""
``tailrace verify --repair``: rows that differ are written again by the engine.

The comparison finds the rows. Their keys are stored in the target beside a command, and the engine
reads these rows on the source and writes them at one place of the log (``engine.pipeline.repair``).
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from engine.cli.inbox import awaited, store_of, user
from engine.cli.recovery import add_yes, agreed
from engine.commands import RepairRows
from engine.contract import RowReader, Sink, StoredText
from engine.databases.mysql.key_values import finds_row
from engine.databases.mysql.types import INTEGER_KINDS
from engine.errors import ConfigError
from engine.mapping.changes import Mapping as TableMappings
from engine.mapping.reader import has_masked_key, shares_of
from engine.ops.words import counted
from engine.recovery import RepairKeys, RepairStore
from engine.remedies import rendered
from engine.schema import Table, TableId
from engine.verify.keyed import LISTED_DIFFERENCES
from engine.verify.report import Difference, Key, TableReport, VerifyReport

__all__ = ["Differing", "Planned", "add_repair_options", "limit_of", "repair"]

#: How many rows are repaired unless another limit is set.
LIMIT: Final = 1000


class _Counts(NamedTuple):
    """The rows of a table that a repair inserts, updates or deletes."""

    inserted: int
    updated: int
    deleted: int


class Planned(msgspec.Struct, frozen=True):
    """What a repair does with the rows of a table on the target. ``refused`` says why it leaves the
    table, or rows of it, as they are, and ``remedy`` is the command line that reads it again, if
    that helps.
    """

    table: str
    insert: int = 0
    update: int = 0
    delete: int = 0
    refused: str = ""
    remedy: str = ""


class Differing:
    """The rows that a comparison has found to differ, as a repair needs them; of those that the
    user was ``asked`` about, if that is not None.
    """

    def __init__(self, asked: Differing | None = None) -> None:
        self._asked = asked
        #: The keys of the rows to repair as the target has them, by the name to show.
        self._taken: dict[str, frozenset[Key]] = {}
        #: What is to be done, by the name to show; that of a merged table has its sources.
        self.counts: dict[str, _Counts] = {}
        self.keys: dict[TableId, RepairKeys] = {}
        #: Why tables, or rows of them, that differ cannot be repaired.
        self.refused: dict[str, str] = {}
        #: What is said of rows in merged tables that are of no table of the source.
        self.strange: dict[str, str] = {}
        #: The number of rows that differ, but for those that are known to be left as they are.
        self.differences = 0

    @property
    def rows(self) -> int:
        """The number of rows to repair."""
        return sum(map(len, self.keys.values()))

    def plan(self, config: str) -> list[Planned]:
        """What is to be done, with the tables by their names."""
        plan = []
        for name in sorted(self.counts.keys() | self.refused.keys() | self.strange.keys()):
            counts, reason = self.counts.get(name, _Counts(0, 0, 0)), self.refused.get(name, "")
            remedy = rendered(_backfill(name), config=config).strip("`")
            said = "; ".join(filter(None, (self.strange.get(name), reason)))
            plan.append(Planned(name, *counts, said, remedy if reason else ""))
        return plan

    def take(
        self,
        report: VerifyReport,
        compared: Mapping[str, Table],
        mapping: TableMappings,
        target: RowReader,
    ) -> None:
        """Take the differences of a result, with the tables by their names in it."""
        for it in report.tables:
            if it.differing or it.missing or it.extra:
                self._take(it, compared[it.table], mapping, target)

    def _take(
        self, report: TableReport, table: Table, mapping: TableMappings, target: RowReader
    ) -> None:
        name = " + ".join(str(source.id) for source in table.sources)
        stored = target.stored(table)
        if self._asked is not None and name not in self._asked._taken:
            return
        if not table.key:
            masked = has_masked_key(table)
            self.refused[name] = "its key is masked" if masked else "the table has no key"
            return
        texts = [stored[ordinal] for ordinal in table.key]
        differences = self._of_sources(name, report.differences, table)
        plain = [it for it in differences if _is_plain(it.key, table, texts)]
        if self._asked is not None:
            plain = [it for it in plain if it.key in self._asked._taken[name]]
        else:
            left = len(report.differences) - len(plain)
            self.differences += report.missing + report.differing + report.extra - left
        if self._asked is None and (left := len(differences) - len(plain)):
            self.refused[name] = (
                f"a policy changes the keys of {counted(left, 'row', 'rows')}, or the source's"
                " columns cannot hold them"
            )
        if plain:
            self._taken[name] = frozenset(it.key for it in plain)
            kinds = Counter(it.kind for it in plain)
            self.counts[name] = _Counts(kinds["missing"], kinds["changed"], kinds["extra"])
            for source in table.sources:
                keys = _keys(plain, table, source, mapping)
                if len(keys):
                    self.keys[source.id] = keys

    def _of_sources(
        self, name: str, differences: Sequence[Difference], table: Table
    ) -> Sequence[Difference]:
        """Those rows of a merged table that are of one of its tables."""
        shares = shares_of(table)
        if not shares:
            return differences
        found = [it for it in differences if it.key[0] in shares]
        if strange := len(differences) - len(found):
            self.strange[name] = (
                f"{counted(strange, 'row', 'rows')} of {table.id} on the target alone, whose"
                f" {table.names[0]} is that of no table: delete {'it' if strange == 1 else 'them'}"
                " there"
            )
        return found


def _is_plain(key: Key, table: Table, texts: Sequence[StoredText | None]) -> bool:
    """Whether the source's key is that of the target: no policy changes it, there or here."""
    columns = (table.columns[ordinal] for ordinal in table.key)
    return all(
        (part is None or finds_row(column, part))
        and (
            text is None
            or (
                part is not None
                # A number may stand for a larger one.
                and column.type.kind not in INTEGER_KINDS
                and text.store(part) == part == text.restore(part)
            )
        )
        for part, text, column in zip(key, texts, columns, strict=True)
    )


def _keys(
    differences: Sequence[Difference], table: Table, source: Table, mapping: TableMappings
) -> RepairKeys:
    """The keys of one table of the source among those of the target's table."""
    own = mapping.of(source)
    names = [table.names[ordinal] for ordinal in table.key]
    if own is None:
        wanted = [source.names[ordinal] for ordinal in source.key]
    else:
        wanted = [own.columns[own.places[ordinal]].column.name for ordinal in source.key]
    places = [names.index(name) for name in wanted]

    def found(*, extra: bool) -> tuple[tuple[str, ...], ...]:
        keys: list[Key] = [it.key for it in differences if (it.kind == "extra") is extra]
        if own is not None and own.share:
            keys = [key for key in keys if key[0] == own.share]
        return tuple(tuple(key[place] or "" for place in places) for key in keys)

    return RepairKeys(found(extra=False), found(extra=True))


def add_repair_options(parser: argparse.ArgumentParser) -> None:
    """The options of a repair."""
    parser.add_argument(
        "--repair",
        action="store_true",
        help="show what a repair of the rows that differ would do, ask, and let the engine do it",
    )
    parser.add_argument(
        "--repair-limit",
        type=int,
        default=LIMIT,
        metavar="N",
        help=f"with --repair: refuse to repair more rows (default {LIMIT:,})",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="with --repair: show what it would do, no more"
    )
    add_yes(parser)


def limit_of(options: argparse.Namespace) -> int:
    """The most rows that are repaired. Raises ConfigError."""
    limit = int(options.repair_limit)
    if not 0 < limit <= LISTED_DIFFERENCES:
        raise ConfigError(
            f"--repair-limit is a number from 1 to {LISTED_DIFFERENCES:,}",
            hint="`tailrace backfill CONFIG TABLE --in-place` reads a whole table again",
        )
    return limit


def _backfill(*names: str) -> str:
    """The command line that reads tables again, by their names in a result."""
    tables = (table for name in names for table in name.split(" + "))
    return f"`tailrace backfill CONFIG {' '.join(map(shlex.quote, tables))}`"


async def repair(sink: Sink, found: Differing, options: argparse.Namespace) -> int | None:
    """Show what is to be done, ask, and have it done; with --dry-run, show it alone. Returns None
    if the engine has done it, else the exit status. Raises ConfigError if there are too many rows,
    or nobody to ask.
    """
    for it in found.plan(str(options.config)):
        if it.insert or it.update or it.delete:
            print(
                f"{it.table}: rows to insert: {it.insert:,}, to update: {it.update:,},"
                f" to delete: {it.delete:,}"
            )
        if it.refused:
            again = f". `{it.remedy}` reads the table again" if it.remedy else ""
            print(f"{it.table}: rows cannot be repaired: {it.refused}{again}")
    if not found.keys:
        return 3
    limit, rows = limit_of(options), found.differences
    if rows > limit:
        raise ConfigError(
            f"{rows:,} rows differ, and the limit of a repair is {limit:,}; nothing is changed",
            hint=f"{_backfill(*sorted(found.counts))} reads these tables again; --repair-limit"
            " sets another limit",
        )
    if options.dry_run:
        print(f"{counted(found.rows, 'row', 'rows')} of the target to repair; nothing is changed")
        return 3
    if not agreed(f"{counted(found.rows, 'row', 'rows')} of the target to repair", options):
        return 1
    return await _give(sink, found, options)


async def _give(sink: Sink, found: Differing, options: argparse.Namespace) -> int | None:
    """Store the command with its keys, and wait for its outcome."""
    store = store_of(sink)
    if not isinstance(sink, RepairStore):
        raise ConfigError("rows of this target cannot be repaired", hint="PostgreSQL's can")
    command = RepairRows({str(id): len(keys) for id, keys in sorted(found.keys.items())})
    text = msgspec.json.encode(command).decode()
    config = str(options.config)
    async with store.command_client() as client:
        runs = await client.engine_runs()
        id = await sink.submit_repair(text, user(), found.keys)
        cancel = rendered(f"`tailrace commands CONFIG cancel {id}`", config=config)
        done = await awaited(client, id, options.deadline_seconds, cancel) if runs else None
    if done is not None:
        outcome = rendered(done.outcome or "", config=config)
        print(f"refused: {outcome}" if done.refused else outcome)
        return 1 if done.refused else None
    run = rendered("`tailrace run CONFIG`", config=config)
    print(
        f"no engine has executed the repair yet; it stays stored as command {id} until one does,"
        f" such as {run} at its start, or until {cancel}"
    )
    return 1
