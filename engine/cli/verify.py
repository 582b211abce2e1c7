"""
The command ``verify``: compare both sides, and store the outcome of each table in the target.

The outcome is all that it writes there, but for a repair (``engine.cli.repair``): one row for each
table, so that everybody can see when a table was last proven equal. The engine shows it within half
a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from functools import partial
from typing import Final

import msgspec

from engine.cli.chosen import Chosen, choose
from engine.cli.command import Command, seconds
from engine.cli.output import print_json, print_tables, print_warning
from engine.cli.progress import comparison_progress
from engine.cli.repair import Differing, add_repair_options, limit_of, repair
from engine.cli.report import Plan, Wanted, add_report_options, make_plan, wanted_report
from engine.cli.stored import stored_state
from engine.cli.wiring import load_settings, make_mapping, make_sink, make_source
from engine.contract import Readable, RowReader, Sink, SnapshotSource, Source, State
from engine.errors import ConfigError, SinkError
from engine.mapping.reader import MappedReader, SharesReader
from engine.proof import ProofOutcome, ProofStore, TableProof
from engine.remedies import remedy_of, rendered
from engine.schema import Table, TableId
from engine.settings.loader import Settings
from engine.toolkit.sampling import MOST_DRAWN, SampleSize, SamplesKeys
from engine.verify import comparison
from engine.verify.report import TableReport, VerifyReport

__all__ = [
    "VERIFY",
    "Record",
    "Waiting",
    "compare",
    "require_comparable",
    "rows_of",
]

#: How often the target is asked for its checkpoint.
POLL_SECONDS: Final = 0.1
#: How often rows are repaired, if they change while they are.
REPAIRS: Final = 3
#: How often outcomes are stored while the comparison goes on.
RECORD_SECONDS: Final = 5.0


def verify(options: argparse.Namespace) -> int:
    """Compare source and target in every column of every row, while changes flow.

    Both databases compute checksums of ranges of rows where they can (docs/verify.md), and the rows
    are read where these differ; otherwise all rows are read. Rows that differ are read again after
    the pipeline has passed the position at which they were read, so changes on their way are no
    differences. Exit status 0: equal; 3: different, or a table could not be compared.

    The outcome of each live table is stored in the target, for `tailrace status` and the metrics.
    Without --repair, nothing else is changed on either side.

    --repair shows how many rows of which tables would be inserted, updated and deleted, and asks.
    Then the engine writes the source's rows, in the order of the log, and the tables are compared
    again. With --dry-run it shows, and does no more. Exit status 0: equal after it; 1: not agreed,
    or the engine refused it, or has not done it in time; 2: too many rows, or nobody to ask; 3:
    rows differ still, or tables cannot be compared or repaired.

    --sample compares random rows alone, and says how many rows may differ. The outcome is not
    stored then, and nothing can be repaired.

    --report writes a page, or JSON, with all of the result and the values of rows that differ, for
    people who have to rely on it; `tailrace report verify FILE` checks that it was not changed.
    """
    settings, wanted = load_settings(options.config), wanted_report(options)
    if options.dry_run and not options.repair:
        raise ConfigError("--dry-run goes with --repair", hint="without both, nothing is written")
    if options.repair:
        limit_of(options)
        if options.sample is not None:
            raise ConfigError(
                "--repair and --sample exclude each other: the comparison after a repair would be"
                " of other rows",
                hint="leave --sample out",
            )
        return asyncio.run(_repair(settings, options, wanted))
    report = asyncio.run(_compare(settings, options, wanted))
    _show(report, options)
    return 0 if report.equal else 3


async def _repair(settings: Settings, options: argparse.Namespace, wanted: Wanted | None) -> int:
    """Compare, repair, and compare again. Returns the exit status."""
    first, status, texts = Differing(), None, not options.json
    # What is said besides is not part of the JSON, which has the last result.
    with redirect_stdout(sys.stdout if texts else sys.stderr):
        found, report = first, await _compare(settings, options, wanted, first)
        for _ in range(REPAIRS):
            if not (found.counts or found.refused or found.strange):
                break
            if texts:
                _show(report, options)
            status = await repair(make_sink(settings), found, options)
            if status is not None:
                break
            # Rows that changed meanwhile are repaired again, but no others: nobody agreed to those.
            options.yes, found = True, Differing(found)
            report = await _compare(settings, options, wanted, found)
    if not texts:
        plan = first.plan(str(options.config))
        print_json(msgspec.to_builtins(_without_values(report)) | {"repair": plan})
    elif status is None:
        _show(report, options)
    return status or (0 if report.equal else 3)


async def _compare(
    settings: Settings,
    options: argparse.Namespace,
    wanted: Wanted | None,
    found: Differing | None = None,
) -> VerifyReport:
    return await compare(
        settings,
        str(options.config),
        names=options.table,
        by_rows=options.rows,
        records=not options.no_record,
        deadline_seconds=options.deadline_seconds,
        wanted=wanted,
        found=found,
        sample=options.sample,
    )


def _show(report: VerifyReport, options: argparse.Namespace) -> None:
    if options.json:
        print_json(_without_values(report))
    else:
        from engine.cli.tables import verify_table

        print_tables(verify_table(report))
        if not options.repair and any(it.differing + it.missing + it.extra for it in report.tables):
            way = rendered("`tailrace verify CONFIG --repair`", config=str(options.config))
            print(f"to write the source's rows in their place: {way}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    parser.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="SCHEMA.TABLE",
        help="compare only this table; repeatable",
    )
    parser.add_argument(
        "--deadline-seconds",
        type=seconds,
        default=60.0,
        metavar="N",
        help="how long to recheck rows that keep changing (default 60)",
    )
    parser.add_argument(
        "--rows",
        action="store_true",
        help="read and compare every row, also where both databases can compute checksums",
    )
    parser.add_argument(
        "--sample",
        type=_sample_size,
        metavar="N|PERCENT",
        help="compare about N random rows of each table, or such a share of them, as in 0.5%%,"
        " and say which share of the rows may differ with 95%% confidence; at most"
        f" {MOST_DRAWN:,} rows of a table are drawn, and tables without a key are compared whole",
    )
    parser.add_argument(
        "--no-record", action="store_true", help="do not store the outcome in the target"
    )
    add_report_options(parser, "with the values of rows that differ")
    add_repair_options(parser)


def _sample_size(text: str) -> SampleSize:
    """The size of a sample: a number of rows, or a percentage. Raises ArgumentTypeError."""
    try:
        size = (
            SampleSize(share=float(text[:-1]) / 100) if text[-1:] == "%" else SampleSize(int(text))
        )
    except ValueError:
        size = SampleSize()
    if not (size.rows > 0 or 0 < size.share <= 1):
        raise argparse.ArgumentTypeError("a number of rows, such as 10000, or 0.5%, is expected")
    return size


VERIFY = Command(
    "verify",
    "compare every row of both sides while changes flow",
    verify,
    _add_options,
)


async def compare(
    settings: Settings,
    config: str,
    *,
    names: Sequence[str] = (),
    by_rows: bool = False,
    records: bool = True,
    deadline_seconds: float = 60.0,
    wanted: Wanted | None = None,
    found: Differing | None = None,
    sample: SampleSize | None = None,
) -> VerifyReport:
    """Compare the tables of these names, or all, and store the outcomes if it ``records`` them.
    Write the report that is ``wanted``. ``found`` gets the rows that differ."""
    sink = make_sink(settings)
    state, checkpoint = await stored_state(sink)
    mapping = make_mapping(settings)
    chosen = choose(mapping.restore(state), checkpoint.progress, mapping, names)

    with closing(make_source(settings)) as source:
        record = Record(sink, state, stores=records)
        with (
            closing(rows_of("source", source)) as source_rows,
            closing(rows_of("sink", sink)) as target_rows,
            comparison_progress(await _expected(source, chosen, sample)) as update,
        ):
            sides = (source_rows, target_rows)
            _require_random(sample, sides)
            shares = SharesReader(target_rows, chosen.others)
            committed = partial(_committed, sink, shares)
            plan: Plan | None = None
            if wanted is not None:
                plan = await make_plan(wanted, settings, checkpoint, _named(chosen), sides, names)
            try:
                report = await comparison.verify(
                    chosen.tables,
                    MappedReader(source_rows, mapping),
                    shares,
                    source_position=source.position,
                    passed=Waiting(source, committed).passed,
                    held=committed,
                    by_rows=by_rows,
                    in_detail=plan is not None,
                    deadline_seconds=deadline_seconds,
                    progress=lambda name, rows: update(chosen.names[name], rows),
                    found=record.add,
                    sample=sample,
                )
                if found is not None:
                    by_name = {str(it.id): it for it in chosen.tables}
                    found.take(report, by_name, mapping, target_rows)
            finally:
                await record.store()
    record.warn(config)
    report = _whole(report, chosen)
    if plan is not None:
        plan.write(report)
    return report


async def _committed(sink: Sink, shares: SharesReader) -> str | None:
    """The position that the target holds. ``shares`` learns which tables it has by now."""
    state = await sink.state()
    if state is None or state.checkpoint is None:
        return None
    shares.learn(state.tables)
    return state.checkpoint.position


def _require_random(sample: SampleSize | None, sides: Sequence[RowReader]) -> None:
    """Raise ConfigError if a sample is wanted and a side draws no random rows."""
    if sample is not None and not all(isinstance(it, SamplesKeys) for it in sides):
        raise ConfigError("the databases draw no random rows", hint="leave --sample out")


async def _expected(source: Source, chosen: Chosen, sample: SampleSize | None) -> Mapping[str, int]:
    """About how many rows of each table are compared, by the names to show, for the progress, if a
    terminal shows it."""
    if not (sys.stderr.isatty() and isinstance(source, SnapshotSource)):
        return {}
    tables = [table for of in chosen.tables.values() for table in of]
    return chosen.expected(await asyncio.to_thread(source.estimates, tables), sample)


def _named(chosen: Chosen) -> dict[str, tuple[Table, Sequence[Table]]]:
    """By the names to show: the table of the target, and those of the source."""
    return {chosen.names[str(it.id)]: (it, of) for it, of in chosen.tables.items()}


def _whole(report: VerifyReport, chosen: Chosen) -> VerifyReport:
    """The result with the names to show, and with the tables that were left out."""
    found = [msgspec.structs.replace(it, table=chosen.names[it.table]) for it in report.tables]
    left = [_left_out(table, reason) for table, reason in sorted(chosen.left.items())]
    return msgspec.structs.replace(report, equal=report.equal and not left, tables=(*found, *left))


def _without_values(report: VerifyReport) -> VerifyReport:
    """The result without values of rows, which only a report has."""
    tables = (
        msgspec.structs.replace(
            table,
            differences=tuple(
                msgspec.structs.replace(it, values=msgspec.UNSET) for it in table.differences
            ),
        )
        for table in report.tables
    )
    return msgspec.structs.replace(report, tables=tuple(tables))


class Waiting:
    """Waits for the pipeline. ``committed`` returns the position that the target holds."""

    def __init__(self, source: Source, committed: Callable[[], Awaitable[str | None]]) -> None:
        self._source = source
        self._committed = committed

    async def passed(self, position: str, deadline: float) -> bool:
        """Wait until the target holds everything up to ``position``. False after the deadline, a
        time of ``time.monotonic``. The target is asked at least once.
        """
        while True:
            committed = await self._committed()
            if committed is not None and self._source.reached(committed, position):
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)


class Record:
    """Stores the outcomes of live tables, some at a time, because each call of a sink is a
    connection. ``state`` is that of the beginning.

    An outcome is stored only if the table is live and has the same version at the end. Else the
    rows on the target may be known to be old, or were read as what they are not. It is stored with
    the table's generation of the beginning.

    ``stored`` has what was stored. ``refused`` is the error of a target that does not store it; the
    comparison goes on.
    """

    def __init__(
        self,
        sink: Sink,
        state: State,
        *,
        stores: bool = True,
    ) -> None:
        self.refused: SinkError | None = None
        self.stored: dict[TableId, TableProof] = {}
        self._sink = sink
        self._stores = stores
        self._live = _live(state)
        self._generations = {id: state.generations.get(id, 0) for id in self._live}
        self._found: dict[TableId, TableProof] = {}
        self._stored_at = time.monotonic()

    async def add(self, table: Table, report: TableReport) -> None:
        """Note the outcome of a table of the target. It is that of all its tables of the source. A
        sample is no proof."""
        if report.sample is not None:
            return
        proof = _proof(report)
        self._found |= {it.id: proof for it in table.sources if it.id in self._live}
        if time.monotonic() - self._stored_at >= RECORD_SECONDS:
            await self.store()

    async def store(self) -> None:
        """Store what was noted."""
        self._stored_at = time.monotonic()
        found, self._found = self._found, {}
        sink = self._sink
        if not self._stores or self.refused is not None or not isinstance(sink, ProofStore):
            return
        try:
            if found:
                state, _ = await stored_state(sink)
                now = _live(state)
                found = {id: it for id, it in found.items() if now.get(id) == self._live[id]}
            if found:
                await sink.save_proofs(found, self._generations)
                self.stored |= found
        except SinkError as error:
            self.refused = error

    def warn(self, config: str) -> None:
        """Say that the outcomes are not stored, if the target has refused them."""
        if self.refused is not None:
            text = f"the outcome is not stored: {self.refused}"
            print_warning(text, remedy_of(self.refused, config))


def _live(state: State) -> dict[TableId, Table]:
    """The live tables of the source, each with the version of the target's table."""
    progress = {} if state.checkpoint is None else state.checkpoint.progress
    versions = {it.id: table for table in state.tables for it in table.sources}
    return {
        id: versions[id] for id, it in progress.items() if it.state == "live" and id in versions
    }


def _proof(report: TableReport) -> TableProof:
    differences = report.differing + report.missing + report.extra
    outcome: ProofOutcome = "different" if differences else "inconclusive"
    return TableProof(
        "equal" if report.equal else outcome,
        report.started_at,
        report.started_at + report.seconds,
        report.position,
        report.rows,
        differences,
        report.hot,
        report.method,
        reason=report.inconclusive,
        equal_at=report.started_at if report.equal else None,
    )


def _left_out(table: str, reason: str) -> TableReport:
    """The report of a table whose rows on the target are known to be old."""
    inconclusive = f"it is quarantined, or backfilled again: {reason}"
    return TableReport(table, 0, 0, 0, 0, 0.0, equal=False, inconclusive=inconclusive)


def require_comparable(settings: Settings) -> None:
    """Raise ConfigError if an engine is to compare tables by itself and cannot."""
    if settings.verify.continuous:
        sink = make_sink(settings)
        for side, end in (("source", make_source(settings)), ("sink", sink)):
            rows_of(side, end).close()


def rows_of(side: str, end: Source | Sink) -> RowReader:
    """The reader of a side's tables. Raises ConfigError if its tables cannot be read."""
    if isinstance(end, Readable):
        return end.row_reader()
    raise ConfigError(
        f"the tables of this {side} cannot be read, so they cannot be compared",
        hint="`tailrace verify CONFIG` compares a MySQL or MariaDB server with PostgreSQL",
    )
