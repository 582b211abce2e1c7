"""
The content of the report of a comparison (``tailrace verify --report``): what the page shows and
the JSON holds.

The report holds values of rows on purpose; those of masked columns are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from engine.report.parts import Server, milliseconds, moment
from engine.verify.report import ColumnValues, Difference, Replaced, TableReport, VerifyReport

__all__ = [
    "FORMAT",
    "Compared",
    "ComparedTable",
    "Content",
    "DifferingRow",
    "NotCompared",
    "Outcome",
    "make_content",
]

#: The version of the format.
FORMAT: Final = 1

Outcome = Literal["equal", "different", "inconclusive", "sampled"]


class DifferingRow(msgspec.Struct, frozen=True):
    """A row that differs, as ``Difference``."""

    kind: Literal["changed", "missing", "extra"]
    key: tuple[str | None, ...]
    values: tuple[ColumnValues, ...]


class ComparedTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table that was compared, as ``TableReport``. ``state`` is the table's state on the target
    when the comparison began. ``left_open`` is the number of rows that changed too fast, or that
    may have been on their way when the pipeline did not reach the end of the log in time.
    ``sample``: what a random sample tells, if only that was compared. The outcome is ``sampled``
    then, unless a row of it differs or is left open.
    """

    table: str
    outcome: Outcome
    state: str
    source_rows: int
    target_rows: int
    changed: int
    missing: int
    extra: int
    left_open: int
    inconclusive: str
    method: str
    read_because: str
    read_rows: int
    source_checksum: str
    target_checksum: str
    position: str
    began: str
    milliseconds: int
    sample: str
    policies: tuple[Replaced, ...]
    masked: tuple[str, ...]
    rows: tuple[DifferingRow, ...]


class NotCompared(msgspec.Struct, frozen=True):
    """A table that was not compared, and why."""

    table: str
    state: str
    reason: str


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of a pipeline's tables. ``outcome`` is ``equal`` if all tables are that were
    to be compared, and ``sampled`` if no row differs, but some tables were only sampled."""

    format: int = FORMAT
    tailrace: str
    pipeline: str
    source: Server
    target: Server
    began: str
    ended: str
    outcome: Outcome
    tables: tuple[ComparedTable, ...]
    not_compared: tuple[NotCompared, ...]


class Compared(NamedTuple):
    """What is known of a comparison besides its result.

    ``states`` has the state of each table, ``masked`` the masked columns of the tables that have
    any, both by the names in the result. ``not_compared`` are tables that are not in the result.
    """

    tailrace: str
    pipeline: str
    source: Server
    target: Server
    began: float
    ended: float
    states: Mapping[str, str]
    masked: Mapping[str, Collection[str]]
    not_compared: Collection[NotCompared] = ()


def make_content(report: VerifyReport, compared: Compared) -> Content:
    """The content of the report. A table that the comparison has left out is one that was not
    compared."""
    tables, left = [], list(compared.not_compared)
    for each in report.tables:
        state = compared.states.get(each.table, "")
        if each.started_at:
            tables.append(_table(each, state, compared.masked.get(each.table, ())))
        else:
            left.append(NotCompared(each.table, state, each.inconclusive))
    outcomes = {each.outcome for each in tables}
    equal: Outcome = "sampled" if "sampled" in outcomes else "equal"
    proven: Outcome = equal if report.equal and tables else "inconclusive"
    return Content(
        tailrace=compared.tailrace,
        pipeline=compared.pipeline,
        source=compared.source,
        target=compared.target,
        began=moment(compared.began),
        ended=moment(compared.ended),
        outcome="different" if "different" in outcomes else proven,
        tables=tuple(tables),
        not_compared=tuple(left),
    )


def _table(report: TableReport, state: str, masked: Collection[str]) -> ComparedTable:
    differences = report.differing + report.missing + report.extra
    equal: Outcome = "sampled" if report.sample else "equal"
    proven: Outcome = equal if report.equal else "inconclusive"
    return ComparedTable(
        table=report.table,
        outcome="different" if differences else proven,
        state=state,
        source_rows=report.rows,
        target_rows=report.target_rows,
        changed=report.differing,
        missing=report.missing,
        extra=report.extra,
        left_open=report.hot,
        inconclusive=report.inconclusive,
        method=report.method,
        read_because=report.reason,
        read_rows=report.read,
        source_checksum=report.source_checksum,
        target_checksum=report.target_checksum,
        position=report.position,
        began=moment(report.started_at),
        milliseconds=milliseconds(report.seconds),
        sample=report.sample.text if report.sample else "",
        policies=report.replaced,
        masked=tuple(sorted(masked)),
        rows=tuple(_row(each, masked) for each in report.differences if each.values),
    )


def _row(difference: Difference, masked: Collection[str]) -> DifferingRow:
    """A row that differs. Its values on the target may be those that a mask should hide."""
    values = tuple(
        ColumnValues(each.column, None, None, hidden=True) if each.column in masked else each
        for each in difference.values or ()
    )
    return DifferingRow(difference.kind, difference.key, values)
