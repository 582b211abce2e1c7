"""
Checks of a sample of each table's rows: values that the target does not store as they are.

The server evaluates the conditions on the sample, one query for each table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from engine.contract import Finding
from engine.databases.mysql.connect import query
from engine.databases.mysql.identifiers import quote_name, quote_table
from engine.errors import SourceError, SourceLost
from engine.schema import Column, Table
from sources.mysql.preflight.context import Check, Context

__all__ = ["SAMPLE_CHECKS"]

_SAMPLE_ROWS: Final = 1000
_SAMPLE_CHARACTERS: Final = 400


class _Probe(NamedTuple):
    """A condition, ``{0}`` is the column, on the values of columns of some kinds."""

    code: str
    kinds: frozenset[str]
    condition: str
    message: str
    action: str


_PROBES: Final = (
    _Probe(
        "MY050",
        frozenset(("date", "datetime", "timestamp")),
        "{0} = 0 OR YEAR({0}) = 0 OR MONTH({0}) = 0 OR DAYOFMONTH({0}) = 0"
        " OR DAYOFMONTH({0}) > COALESCE(DAYOFMONTH(LAST_DAY({0})), 0)",
        "holds dates that are not in the calendar, such as 0000-00-00",
        'correct them, or choose a policy: [sink.values.columns] "{where}" = {{ zero_date = … }}',
    ),
    _Probe(
        "MY051",
        frozenset(("enum",)),
        "{0} + 0 = 0",
        "holds the invalid value 0 of its ENUM, which is carried as an empty text",
        "correct the rows: WHERE {name} + 0 = 0",
    ),
    _Probe(
        "MY052",
        frozenset(("text",)),
        "LOCATE(_binary x'00', {0}) > 0",
        "holds texts with U+0000, which PostgreSQL cannot store",
        'correct them, or choose a policy: [sink.values.columns] "{where}" = {{ nul_byte = … }}',
    ),
)


def _sampled(context: Context) -> Iterator[Finding]:
    for table in context.tables:
        pairs = [
            (column, probe)
            for column in table.columns
            for probe in _PROBES
            if column.type.kind in probe.kinds
        ]
        rows, *counts = _counts(context, table, pairs)
        for (column, probe), count in zip(pairs, counts, strict=False):
            if count:
                yield Finding(
                    "warning",
                    str(table.id),
                    f"the column {column.name} {probe.message} ({count} of {rows} sampled rows)",
                    probe.action.format(
                        name=quote_name(column.name), where=f"{table.id}.{column.name}"
                    ),
                    code=probe.code,
                )


def _counts(
    context: Context, table: Table, pairs: Sequence[tuple[Column, _Probe]]
) -> Sequence[int | None]:
    """The number of rows of the sample, and how many of them meet each condition."""
    if not pairs:
        return (0,)
    values = ", ".join(f"{_value(column)} AS v{n}" for n, (column, _) in enumerate(pairs))
    sums = ", ".join(
        f"SUM({probe.condition.format(f'v{n}')})" for n, (_, probe) in enumerate(pairs)
    )
    sample = f"SELECT {values} FROM {quote_table(table)} LIMIT {_SAMPLE_ROWS}"
    try:
        found: list[tuple[int | None, ...]] = query(
            context.session, f"SELECT COUNT(*), {sums} FROM ({sample}) AS sample"
        )
    except SourceLost:
        raise
    except SourceError:
        return (0,)  # another check says that the user may not read the table
    return found[0]


def _value(column: Column) -> str:
    name = quote_name(column.name)
    if column.type.kind != "text":
        return name
    return f"CAST(CONVERT(LEFT({name}, {_SAMPLE_CHARACTERS}) USING utf8mb4) AS BINARY)"


#: The checks of sampled rows.
SAMPLE_CHECKS: Final[tuple[Check, ...]] = (_sampled,)
