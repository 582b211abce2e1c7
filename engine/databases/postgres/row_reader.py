"""
Plain reads of PostgreSQL tables, for parity.

Rows are read with psycopg's own cursors, and each value as the server's own text. Of the code that
writes rows only the names of tables and types are used, because an error in the rest would
otherwise hide itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final, cast

import psycopg
from psycopg import errors as pg

from engine.contract import StoredText
from engine.databases.postgres.connect import connect_error, driver_error
from engine.databases.postgres.identifiers import Naming, quote
from engine.databases.postgres.row_text import (
    ROW_SUMS,
    ROWS_DIGEST,
    row_digest,
    row_part,
    row_text,
    why_no_text,
)
from engine.databases.postgres.session_settings import set_statements
from engine.databases.postgres.settings import ConnectionSettings, guard
from engine.databases.postgres.stored import Storage
from engine.databases.postgres.types import EnumColumn, type_name
from engine.databases.side import IDLE_SECONDS, TARGET, Side
from engine.schema import Column, Table
from engine.toolkit.canonical import (
    Convert,
    canonical_rows,
    clock,
    day_or_none,
    float32_text,
    float64_text,
    interval_text,
    number_text,
)
from engine.toolkit.checksums import MOST_BYTES, Checksum, KeyRange
from engine.toolkit.row_limit import batches_of, first_of

__all__ = ["PostgresRowReader"]

#: The longest wait for an answer, which may need a read of the whole table.
TIMEOUT_SECONDS: Final = 600
#: Rows of a scan that are fetched at once.
SCAN_ROWS: Final = 2000
#: Rows that the client holds while they are received. Before version 17 it receives single rows.
_STREAMED: Final = 8 if psycopg.pq.version() >= 170000 else 1

_READER_SETTINGS: Final = {
    "default_transaction_read_only": "on",
    # A comparison takes no more of the server than one process.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "statement_timeout": f"{TIMEOUT_SECONDS}s",
}

_BEFORE_CHRIST: Final = " BC"
_COMMON_ERA: Final = re.compile(r"\d{4}-\d\d-\d\d(?!.* BC\Z)")

Key = tuple[str | None, ...]
Text = tuple[str | None, ...]


class PostgresRowReader:
    """A ``RowReader`` with a connection of its own, which is opened at the first read and again
    after it is lost.

    ``naming`` is the place of the source's tables, ``storage`` the form of their columns. Raises
    ``side.lost`` and ``side.refused``.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        naming: Naming,
        storage: Storage | None = None,
        *,
        side: Side = TARGET,
    ) -> None:
        self._settings = settings
        self._naming = naming
        self._storage = storage or Storage()
        self._side = side
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._used_at = 0.0
        self._closed = False

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[Text]:
        """Up to ``limit`` rows, or keys, after the key ``after``, in this server's key order."""
        where, parameters = self._in_range(table, KeyRange(after))
        rest = f"{where} ORDER BY {self._order(table)} LIMIT {limit}"
        rows, _ = self._first(table, rest, parameters, keys_only=keys_only)
        return self._side.later(table, after, rows, keys_only=keys_only)

    def by_keys(self, table: Table, keys: Sequence[Key], *, keys_only: bool = False) -> list[Text]:
        """The rows that have one of these keys, or their keys. A key that PostgreSQL cannot store
        finds nothing.
        """
        columns = self._key_columns(table)
        rows = [_parameters(columns, key) for key in keys if _can_be(columns, key)]
        if not rows:
            return []
        arrays = ", ".join(f"${n}::text[]" for n in range(1, len(columns) + 1))
        names = ", ".join(f"k{n}" for n in range(len(columns)))
        casts = ", ".join(_cast(f"k{n}", column) for n, column in enumerate(columns))
        pairs = " AND ".join(f"{_reference(column)} = w.w{n}" for n, column in enumerate(columns))
        wanted = ", ".join(f"w{n}" for n in range(len(columns)))
        rest = (
            f" JOIN (SELECT {casts} FROM unnest({arrays}) AS k({names})) AS w({wanted}) ON {pairs}"
        )
        parameters = tuple(list(values) for values in zip(*rows, strict=True))
        # A row is found for each key that the collation takes for equal to its own.
        once = "DISTINCT ON (t.tableoid, t.ctid) "
        return self._select(table, rest, parameters, keys_only=keys_only, once=once)

    def scan(self, table: Table) -> Iterator[list[Text]]:
        """All rows, as one statement sees them."""
        return self._scan(table)

    def _scan(
        self, table: Table, where: str = "", parameters: Sequence[Any] = ()
    ) -> Iterator[list[Text]]:
        columns = self._storage.table(table).columns
        sql = f"SELECT {_list(columns)} FROM {self._naming.sql(table.id)} AS t{where}"
        converts = list(map(_convert, columns))
        with self._translate_errors(table):
            connection = self._open()
            with connection.transaction():
                connection.execute(f"DECLARE tailrace_scan CURSOR FOR {sql}", parameters)
                for batch in batches_of(_fetched(connection), SCAN_ROWS):
                    yield canonical_rows(batch, converts)
                connection.execute("CLOSE tailrace_scan")

    def count(self, table: Table) -> int:
        """The exact number of rows now."""
        with self._translate_errors(table):
            sql = f"SELECT count(*) FROM {self._naming.sql(table.id)}"
            return int(self._open().execute(sql).fetchall()[0][0])

    def server(self) -> str:
        """As ``NamesServer.server``."""
        return f"PostgreSQL {self._open().info.parameter_status('server_version') or ''}".strip()

    def size(self, table: Table) -> int:
        """As ``SamplesKeys.size``."""
        return self.count(table)

    def sample(self, table: Table, share: float) -> list[Key]:
        """As ``SamplesKeys.sample``. The server computes ``random`` for each row."""
        return self._select(table, f" WHERE random() < {share:.12f}", (), keys_only=True)

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        """How the policies store the source's values."""
        return self._storage.texts(table)

    def why_not_summed(self, table: Table) -> str:
        """As ``SumsRows.why_not_summed``."""
        return why_no_text(table, self._storage.table(table))

    def longest_text(self) -> int:
        """As ``SumsRows.longest_text``."""
        return MOST_BYTES

    def sum_range(self, table: Table, range: KeyRange, nulled: Collection[int] = ()) -> Checksum:
        """As ``SumsRows.sum_range``. PostgreSQL has no zero dates."""
        where, parameters = self._in_range(table, range)
        text = row_text(self._storage.table(table))
        # The aggregate gets the rows in the order of the subquery.
        rows = f"SELECT {text} AS x FROM {self._naming.sql(table.id)} AS t{where}"
        sql = f"SELECT {ROWS_DIGEST} FROM ({rows} ORDER BY {self._order(table)}) AS s"
        with self._translate_errors(table):
            return Checksum.of_text(*self._open().execute(sql, parameters).fetchall()[0])

    def sum_parts(self, table: Table, nulled: Collection[int] = ()) -> dict[str, Checksum]:
        """As ``SumsRows.sum_parts``. PostgreSQL has no zero dates."""
        stored = self._storage.table(table)
        rows = (
            f"SELECT {row_digest(stored)} AS h, {row_part(stored)} AS part"
            f" FROM {self._naming.sql(table.id)} AS t OFFSET 0"
        )
        with self._translate_errors(table):
            sql = f"SELECT part, {ROW_SUMS} FROM ({rows}) AS s GROUP BY part"
            found = self._open().execute(sql).fetchall()
        return {str(name): Checksum.of(*numbers) for name, *numbers in found}

    def part_rows(
        self, table: Table, parts: Collection[str], nulled: Collection[int] = ()
    ) -> Iterator[list[Text]]:
        """As ``SumsRows.part_rows``. PostgreSQL has no zero dates."""
        part = row_part(self._storage.table(table))
        return self._scan(table, f" WHERE {part} = ANY($1)", [list(parts)])

    def count_zeros(self, table: Table, range: KeyRange, columns: Collection[int]) -> list[int]:
        """As ``SumsRows.count_zeros``. PostgreSQL has no zero dates."""
        return [0] * len(columns)

    def boundary(self, table: Table, range: KeyRange, rows: int) -> Key | None:
        """As ``SumsRows.boundary``."""
        where, parameters = self._in_range(table, range)
        rest = f"{where} ORDER BY {self._order(table)} LIMIT 1 OFFSET {rows - 1}"
        found = self._select(table, rest, parameters, keys_only=True)
        return next(iter(self._side.later(table, range.after, found, keys_only=True)), None)

    def range_rows(self, table: Table, range: KeyRange) -> tuple[list[Text], Key | None]:
        """As ``SumsRows.range_rows``."""
        where, parameters = self._in_range(table, range)
        rest = f"{where} ORDER BY {self._order(table)}"
        rows, more = self._first(table, rest, parameters, keys_only=False)
        return rows, tuple(rows[-1][ordinal] for ordinal in table.key) if more else None

    def close(self) -> None:
        """As ``RowReader.close``."""
        self._closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _select(
        self,
        table: Table,
        rest: str,
        parameters: Sequence[Any],
        *,
        keys_only: bool,
        once: str = "",
    ) -> list[Text]:
        columns = self._columns(table, keys_only=keys_only)
        sql = f"SELECT {once}{_list(columns)} FROM {self._naming.sql(table.id)} AS t{rest}"
        with self._translate_errors(table):
            rows = self._open().execute(sql, parameters).fetchall()
        return canonical_rows(rows, list(map(_convert, columns)))

    def _first(
        self, table: Table, rest: str, parameters: Sequence[Any], *, keys_only: bool
    ) -> tuple[list[Text], bool]:
        """The first rows, and whether there are more."""
        columns = self._columns(table, keys_only=keys_only)
        sql = f"SELECT {_list(columns)} FROM {self._naming.sql(table.id)} AS t{rest}"
        key = range(len(table.key)) if keys_only else table.key
        with self._translate_errors(table):
            streamed = self._open().cursor().stream(sql, parameters, size=_STREAMED)
            # A read that ends early is cancelled.
            with closing(cast("Generator[Text]", streamed)) as rows:
                found, more = first_of(rows, key)
        return canonical_rows(found, list(map(_convert, columns))), more

    def _columns(self, table: Table, *, keys_only: bool) -> list[Column]:
        ordinals = table.key if keys_only else range(len(table.columns))
        stored = self._storage.table(table)
        return [stored.columns[ordinal] for ordinal in ordinals]

    def _in_range(self, table: Table, range: KeyRange) -> tuple[str, tuple[str | None, ...]]:
        """The WHERE clause for the keys of a range, and its parameters."""
        columns = self._key_columns(table)
        conditions: list[str] = []
        parameters: tuple[str | None, ...] = ()
        for operator, key in ((">", range.after), ("<=", range.upto)):
            if key is not None:
                casts = (
                    _cast(f"${n}::text", column)
                    for n, column in enumerate(columns, len(parameters) + 1)
                )
                conditions.append(f"({self._order(table)}) {operator} ({', '.join(casts)})")
                parameters += _parameters(columns, key)
        return f" WHERE {' AND '.join(conditions)}" if conditions else "", parameters

    def _order(self, table: Table) -> str:
        return ", ".join(map(_reference, self._key_columns(table)))

    def _key_columns(self, table: Table) -> list[Column]:
        stored = self._storage.table(table)
        return [stored.columns[ordinal] for ordinal in table.key]

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self._disconnect()
        self._used_at = time.monotonic()
        if self._connection is None:
            self._refuse_closed()
            settings = self._settings
            try:
                self._connection = psycopg.connect(
                    settings.url,
                    autocommit=True,
                    cursor_factory=psycopg.RawCursor,
                    connect_timeout=max(2, int(settings.timeout_seconds)),
                    application_name=f"{settings.application_name} verify",
                    tcp_user_timeout=TIMEOUT_SECONDS * 1000,
                    keepalives=1,
                    keepalives_idle=10,
                    **guard(settings.url),
                )
            except psycopg.Error as error:
                raise connect_error(error, self._side) from error
            self._connection.server_cursor_factory = psycopg.RawServerCursor
            version = self._connection.info.server_version
            self._connection.execute(set_statements(version, _READER_SETTINGS))
            if self._closed:  # meanwhile
                self._disconnect()
                self._refuse_closed()
        return self._connection

    def _refuse_closed(self) -> None:
        if self._closed:
            raise self._side.lost(f"the read of the {self._side.name} was stopped")

    @contextmanager
    def _translate_errors(self, table: Table) -> Iterator[None]:
        try:
            yield
        except (pg.UndefinedTable, pg.InvalidSchemaName) as error:
            text = f"the {self._side.name} has no such table"
            raise self._side.refused(text, table=table.id) from error
        except (pg.UndefinedColumn, pg.UndefinedFunction) as error:
            text = f"the {self._side.name}'s table has other columns"
            raise self._side.refused(text, table=table.id) from error
        except psycopg.Error as error:
            connection = self._connection
            broken = connection is None or connection.closed or connection.broken
            translated = driver_error(error, self._side, broken=broken, table=table.id)
            if translated.retryable:
                self._disconnect()
            raise translated from error
        finally:
            self._used_at = time.monotonic()


def _fetched(connection: psycopg.Connection[tuple[Any, ...]]) -> Iterator[Text]:
    """The rows of the scan. Each FETCH is a statement, which has a deadline; its rows are received
    as they are asked for."""
    count = SCAN_ROWS
    while count == SCAN_ROWS:
        count = 0
        sql = f"FETCH {SCAN_ROWS} FROM tailrace_scan"
        rows = connection.cursor().stream(sql, size=_STREAMED)
        for count, row in enumerate(rows, 1):  # noqa: B007
            yield row


def _reference(column: Column) -> str:
    return f"t.{quote(column.name)}"


def _list(columns: Sequence[Column]) -> str:
    return ", ".join(map(_expression, columns))


def _expression(column: Column) -> str:
    name = _reference(column)
    match column.type.kind:
        case "binary" | "geometry":
            return f"encode({name}, 'hex')"
        case "boolean":
            return f"{name}::int::text"
        case _:
            return f"{name}::text"


def _convert(column: Column) -> Convert | None:
    """The function that makes the server's text of a stored column canonical; None if it is so
    already."""
    if column.type.kind == "text" and _has_clock(column):
        return clock
    return _CONVERTS.get(column.type.kind)


def _has_clock(column: Column) -> bool:
    """Whether a stored column is a date and time on the source."""
    return column.source_type.lower().startswith(("datetime", "timestamp"))


def _moment(text: str) -> str:
    """A date and time. One before Christ keeps its suffix, and an infinity is a word."""
    moment, era, _ = text.partition(_BEFORE_CHRIST)
    return clock(moment) + era if moment[:1].isdigit() else text


def _bits(text: str) -> str:
    return str(int(text, 2))


def _utc(text: str) -> str:
    return _moment(text.replace("+00", "", 1))


_CONVERTS: Final[dict[str, Convert]] = {
    "decimal": number_text,
    "float32": float32_text,
    "float64": float64_text,
    "bit": _bits,
    "datetime": _moment,
    "timestamp": _utc,
    "time": interval_text,
    "interval": interval_text,
}


def _cast(text: str, column: Column) -> str:
    """An SQL expression of a canonical text, converted to the column's PostgreSQL type."""
    if isinstance(column, EnumColumn):
        return f"{text}::{column.enum_type}"
    match column.type.kind:
        case "binary" | "geometry":
            return f"decode({text}, 'hex')"
        case "boolean":
            return f"{text}::int::boolean"
        case "text" | "enum" | "set":
            return text
        case _:
            return f"{text}::{type_name(column.type)}"


def _parameters(columns: Sequence[Column], key: Key) -> tuple[str | None, ...]:
    return tuple(map(_parameter, columns, key))


def _parameter(column: Column, text: str | None) -> str | None:
    """A canonical text in the form that the stored column has."""
    if text is None:
        return None
    if column.type.kind == "bit":
        return f"{int(text):0{column.type.length or 1}b}"
    if column.type.kind == "text" and _has_clock(column):
        return text[: column.type.length]
    return text


def _can_be(columns: Sequence[Column], key: Key) -> bool:
    """Whether PostgreSQL can read the key: its dates are valid, its labels known, and no text
    contains U+0000. Years below 1 and above 9999 are those of PostgreSQL itself."""
    for column, text in zip(columns, key, strict=True):
        if text is None or "\0" in text:
            return False
        dated = column.type.kind in ("date", "datetime", "timestamp")
        if dated and _COMMON_ERA.match(text) and day_or_none(text) is None:
            return False
        if isinstance(column, EnumColumn) and text not in column.labels:
            return False
    return True
