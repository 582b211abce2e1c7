"""
Plain reads of MySQL and MariaDB tables, for parity.

Rows are read with PyMySQL's own cursors, and the server converts the character sets. The decoders
of the stream and the snapshot are not used, because an error in what they share would otherwise
hide itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import product, repeat
from typing import Any, Final

from pymysql.connections import Connection

from engine.contract import RowFilter, StoredText
from engine.databases.mysql.charset import (
    is_ambiguous,
    is_single_byte,
    may_be_hidden,
    may_be_invalid,
    text_decoder,
)
from engine.databases.mysql.clustering import is_clustered
from engine.databases.mysql.connect import (
    establish,
    interrupt,
    is_mariadb,
    prepare,
    query,
    server_version,
    streamed,
    translate_errors,
)
from engine.databases.mysql.identifiers import quote_name, quote_table
from engine.databases.mysql.invalid_text import bytes_of, has_substitutes, invalid_text
from engine.databases.mysql.key_values import can_hold, nearest
from engine.databases.mysql.literals import (
    KeyText,
    ReplacedKeyText,
    bytes_literal,
    literal,
    literals,
)
from engine.databases.mysql.pymysql_adapter import force_close, return_text
from engine.databases.mysql.row_filter import accepts, condition
from engine.databases.mysql.row_text import (
    row_digest,
    row_part,
    row_sums,
    rows_digest,
    why_no_text,
)
from engine.databases.mysql.selected import CONVERTS, text_of_value, text_or_bytes
from engine.databases.mysql.settings import ConnectionSettings
from engine.databases.mysql.types import parse_type
from engine.databases.side import IDLE_SECONDS, SOURCE, Side
from engine.schema import Column, Table
from engine.toolkit.canonical import (
    Convert,
    ReplacedText,
    canonical_rows,
    integer_text,
)
from engine.toolkit.checksums import Checksum, KeyRange
from engine.toolkit.policies import ReadPolicies
from engine.toolkit.row_limit import batches_of, first_of

__all__ = ["MySQLRowReader"]

#: The longest wait for an answer, which may need a read of the whole table.
TIMEOUT_SECONDS: Final = 600.0
#: Rows of a scan that are fetched at once.
SCAN_ROWS: Final = 2000

_INTEGERS: Final = frozenset(
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 24, 32, 64)
)

_UNICODE: Final = ("", "utf8mb3", "utf8mb4")

_CASTS: Final = {"enum": "UNSIGNED", "set": "UNSIGNED", "geometry": "BINARY"}

Key = tuple[str | None, ...]
Text = tuple[str | None, ...]


class MySQLRowReader:
    """A ``RowReader`` with a connection of its own, which is opened at the first read and again
    after it is lost. Raises ``side.lost`` and ``side.refused``.

    ``policies``: how invalid text is read. The server shows other characters for it, so a text that
    the server does not convert back to the same bytes is read as bytes.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        policies: ReadPolicies | None = None,
        *,
        side: Side = SOURCE,
    ) -> None:
        self._settings = settings
        self._policies = policies or ReadPolicies()
        #: The bytes of texts of keys that are not those of their literal, as hexadecimal digits, by
        #: charset and text. Several bytes may be one character.
        self._bytes: dict[tuple[str, str], set[str]] = {}
        self._side = side
        #: The conditions of ``filter``; empty if the server does not accept one.
        self._conditions: dict[Table, str] = {}
        #: Whether the server has SHA-256; None if that is not known yet.
        self._hashes: bool | None = None
        self._clustered: dict[Table, bool] = {}
        self._connection: Connection[Any] | None = None
        #: Guards the attributes below, and who frees the connection.
        self._lock = threading.Lock()
        self._reads = self._closed = False
        self._used_at = 0.0

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[Text]:
        """Up to ``limit`` rows, or keys, after the key ``after``, in this server's key order."""
        where = self._conditions.get(table, "")
        while True:
            if not where:
                found = _where(self._in_range(table, KeyRange(after)))
                rest = f"{found} ORDER BY {_order(table)} LIMIT {limit}"
                rows, _ = self._first(table, rest, keys_only=keys_only)
                return self._side.later(table, after, rows, keys_only=keys_only)
            # The end of the range first, so that a read does not pass over the whole table.
            end = self.boundary(table, KeyRange(after), limit)
            found = _where([*self._in_range(table, KeyRange(after, end)), where])
            rows, _ = self._first(table, f"{found} ORDER BY {_order(table)}", keys_only=keys_only)
            if rows or end is None:
                return rows
            after = end

    def filter(self, table: Table, rows: RowFilter) -> None:
        """Leave out rows; see ``FiltersRows``. ``scan`` and ``count`` do not: they send rows all
        the time, so that the wait for the next one is short.
        """
        where = condition(table, rows, self._policies)
        if where:
            with self._reading() as connection, translate_errors(self._side):
                where = where if accepts(connection, table, where) else ""
        self._conditions[table] = where

    def by_keys(self, table: Table, keys: Sequence[Key], *, keys_only: bool = False) -> list[Text]:
        """The rows that this server finds by these keys, or their keys."""
        columns = [table.columns[ordinal] for ordinal in table.key]
        literals = (map(self._literals, repeat(table), columns, key) for key in keys)
        rows = ", ".join(f"({', '.join(row)})" for each in literals for row in product(*each))
        if not rows:
            return []
        names = ", ".join(map(_operand, columns))
        found = [f"({names}) IN ({rows})", *filter(None, [self._conditions.get(table)])]
        return self._select(table, _where(found), keys_only=keys_only)

    def scan(self, table: Table) -> Iterator[list[Text]]:
        """All rows, as one statement sees them."""
        return self._scan(table)

    def _scan(self, table: Table, where: str = "") -> Iterator[list[Text]]:
        converts = [self._convert(table, column) for column in table.columns]
        with self._stream(table, table.columns, where) as rows:
            for batch in batches_of(rows, SCAN_ROWS):
                yield canonical_rows(batch, converts)

    def count(self, table: Table) -> int:
        """The exact number of rows now."""
        return int(self._query(f"SELECT COUNT(*) FROM {quote_table(table)}")[0][0])

    def server(self) -> str:
        """As ``NamesServer.server``."""
        with self._reading() as connection:
            name = "MariaDB" if is_mariadb(connection) else "MySQL"
            return f"{name} {server_version(connection)}"

    def size(self, table: Table) -> int:
        """As ``SamplesKeys.size``."""
        return self.count(table)

    def sample(self, table: Table, share: float) -> list[Key]:
        """As ``SamplesKeys.sample``. The server computes RAND for each row."""
        conditions = [f"RAND() < {share:.12f}", *filter(None, [self._conditions.get(table)])]
        return self._select(table, _where(conditions), keys_only=True)

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        """No policy changes a value here."""
        return (None,) * len(table.columns)

    def read_policies(self, table: Table) -> Sequence[str]:
        """As ``NamesReadPolicies.read_policies``."""
        policies = (self._policies.of(table.id, it.name).invalid_text for it in table.columns)
        return [
            f'invalid_text = "{policy}"'
            if policy != "error"
            and may_be_invalid(parse_type(column.source_type).encoding)
            and self._decoder(table, column)
            else ""
            for column, policy in zip(table.columns, policies, strict=True)
        ]

    def why_not_summed(self, table: Table) -> str:
        """As ``SumsRows.why_not_summed``."""
        if self._hashes is None:  # a server that was built without SSL has no SHA2
            self._hashes = self._query("SELECT SHA2('', 256) IS NOT NULL")[0][0] == "1"
        return why_no_text(table) if self._hashes else "the server has no SHA-256"

    def longest_text(self) -> int:
        """As ``SumsRows.longest_text``. GROUP_CONCAT has both limits."""
        return min(map(int, self._query("SELECT @@group_concat_max_len, @@max_allowed_packet")[0]))

    def sum_range(self, table: Table, range: KeyRange, nulled: Collection[int] = ()) -> Checksum:
        """As ``SumsRows.sum_range``."""
        where = _where(self._in_range(table, range))
        order = _order(table)
        if self._is_clustered(table):
            where, order = f" FORCE INDEX (PRIMARY){where}", ""
        sql = f"SELECT {rows_digest(table, nulled, order)} FROM {quote_table(table)}{where}"
        return Checksum.of_text(*self._query(sql)[0])

    def count_zeros(self, table: Table, range: KeyRange, columns: Collection[int]) -> list[int]:
        """As ``SumsRows.count_zeros``."""
        names = (quote_name(table.columns[ordinal].name) for ordinal in columns)
        sums = ", ".join(f"SUM({name} = 0)" for name in names)
        where = _where(self._in_range(table, range))
        row = self._query(f"SELECT {sums} FROM {quote_table(table)}{where}")[0]
        return [int(number or 0) for number in row]

    def boundary(self, table: Table, range: KeyRange, rows: int) -> Key | None:
        """As ``SumsRows.boundary``."""
        where = _where(self._in_range(table, range))
        rest = f"{where} ORDER BY {_order(table)} LIMIT 1 OFFSET {rows - 1}"
        found = self._select(table, rest, keys_only=True)
        return next(iter(self._side.later(table, range.after, found, keys_only=True)), None)

    def range_rows(self, table: Table, range: KeyRange) -> tuple[list[Text], Key | None]:
        """As ``SumsRows.range_rows``."""
        found = _where(self._in_range(table, range))
        rows, more = self._first(table, f"{found} ORDER BY {_order(table)}", keys_only=False)
        return rows, tuple(rows[-1][ordinal] for ordinal in table.key) if more else None

    def sum_parts(self, table: Table, nulled: Collection[int] = ()) -> dict[str, Checksum]:
        """As ``SumsRows.sum_parts``."""
        part, sums = row_part(table, nulled), row_sums(row_digest(table, nulled))
        # By position: a name would be that of a column, if there is one, and not of the alias.
        sql = f"SELECT {part}, {sums} FROM {quote_table(table)} GROUP BY 1"
        return {str(name): Checksum.of(*numbers) for name, *numbers in self._query(sql)}

    def part_rows(
        self, table: Table, parts: Collection[str], nulled: Collection[int] = ()
    ) -> Iterator[list[Text]]:
        """As ``SumsRows.part_rows``."""
        names = ", ".join(f"'{part}'" for part in parts)
        return self._scan(table, _where([f"{row_part(table, nulled)} IN ({names})"]))

    def close(self) -> None:
        """As ``RowReader.close``. The thread that reads frees the connection."""
        with self._lock:
            self._closed = True
            connection = self._connection
            if connection is None:
                return
            if self._reads:
                interrupt(connection)
            else:
                self._connection = None
                force_close(connection)

    def _is_clustered(self, table: Table) -> bool:
        if table not in self._clustered:
            with self._reading() as connection:
                self._clustered[table] = is_clustered(connection, table, self._side)
        return self._clustered[table]

    def _select(self, table: Table, rest: str, *, keys_only: bool) -> list[Text]:
        columns = _columns(table, keys_only=keys_only)
        sql = f"SELECT {self._list(table, columns)} FROM {quote_table(table)}{rest}"
        converts = [self._convert(table, column) for column in columns]
        return canonical_rows(self._query(sql), converts)

    def _first(self, table: Table, rest: str, *, keys_only: bool) -> tuple[list[Text], bool]:
        """The first rows, and whether there are more."""
        columns = _columns(table, keys_only=keys_only)
        with self._stream(table, columns, rest) as rows:
            found, more = first_of(rows, range(len(table.key)) if keys_only else table.key)
        return canonical_rows(found, [self._convert(table, column) for column in columns]), more

    @contextmanager
    def _stream(
        self, table: Table, columns: Sequence[Column], rest: str
    ) -> Iterator[Iterator[Text]]:
        """Rows, one by one. At the end the client reads those that are left."""
        sql = f"SELECT {self._list(table, columns)} FROM {quote_table(table)}{rest}"
        with self._reading() as connection, streamed(connection, sql, self._side) as rows:
            yield rows

    def _list(self, table: Table, columns: Sequence[Column]) -> str:
        return ", ".join(
            text_or_bytes(column) if self._decoder(table, column) else text_of_value(column)
            for column in columns
        )

    def _decoder(self, table: Table, column: Column) -> Callable[[bytes], str] | None:
        """The function that reads the bytes of a text that the server may not show, or of a key
        that may be one of several bytes; None if there is none. By the policy ``error`` the target
        has no invalid text: a question mark stands for it, as the server shows it."""
        source_type = parse_type(column.source_type)
        charset = source_type.encoding
        in_key = table.ordinal(column.name) in table.key
        if column.type.kind != "text" or not (
            may_be_hidden(charset) or (in_key and is_ambiguous(charset))
        ):
            return None
        if charset in _UNICODE and not source_type.holds:
            return None
        errors = invalid_text(self._policies, table, column)
        return text_decoder(charset, "replace" if errors == "strict" else errors)

    def _convert(self, table: Table, column: Column) -> Convert | None:
        """The function that makes the client's text canonical; None if it is so already."""
        kind = column.type.kind
        if kind in _INTEGERS or kind == "boolean":
            return integer_text
        decode = self._decoder(table, column)
        if decode is None:
            return CONVERTS.get(kind)
        source_type, decoded = parse_type(column.source_type), decode
        charset, encoding = source_type.charset, source_type.encoding
        strict = text_decoder(encoding)

        in_key, single = table.ordinal(column.name) in table.key, is_single_byte(encoding)

        def text_of(text: str) -> str:
            if text[:1] != "\0":
                return text
            digits = text[1:]
            raw = bytes.fromhex(digits)
            try:
                found, is_valid = strict(raw), True
            except UnicodeDecodeError:
                found, is_valid = decoded(raw), False
            if not in_key:
                return found if is_valid else ReplacedText(found)
            if bytes_of(found, encoding) != raw or not (single or has_substitutes(found)):
                self._bytes.setdefault((charset, found), set()).add(digits)
            return (KeyText if is_valid else ReplacedKeyText)(found, digits)

        return text_of

    def _literals(self, table: Table, column: Column, text: str | None) -> list[str]:
        """The SQL literals of the values that are read as a canonical text; none if the server can
        hold none. A character for private use may be one of the charset, or stand for bytes."""
        plain = literals(column, text) if can_hold(column, text) else []
        return [*plain, *self._as_read(table, column, text)]

    def _as_read(self, table: Table, column: Column, text: str | None) -> list[str]:
        """The literals of a text that is read as bytes; none for others."""
        if text is None or column.type.kind != "text" or not (self._bytes or has_substitutes(text)):
            return []
        source_type = parse_type(column.source_type)
        found = self._bytes.get((source_type.charset, text), set())
        if not found and has_substitutes(text) and self._decoder(table, column):
            found = {(bytes_of(text, source_type.encoding) or b"").hex()} - {""}
        return [bytes_literal(column, digits) for digits in sorted(found)]

    def _in_range(self, table: Table, range: KeyRange) -> list[str]:
        """The conditions for the keys of a range."""
        lower = [] if range.after is None else [self._compared(table, range.after, ">", ">")]
        upper = [] if range.upto is None else [self._compared(table, range.upto, "<", "<=")]
        return lower + upper

    def _compared(self, table: Table, key: Key, beyond: str, at_end: str) -> str:
        """The condition for keys above ``key`` (``>``), or up to it (``<`` and ``<=``).

        A value that the server cannot hold is replaced by the nearest one.
        For more than one column it begins with ``first >= value``, so that the server can start the
        read in the index.
        """
        columns = [table.columns[ordinal] for ordinal in table.key]
        parts = [
            (_operand(column), literal(column, nearest(column, text)))
            for column, text in zip(columns, key, strict=True)
        ]
        name, value = parts[-1]
        clause = f"{name} {at_end} {value}"
        for name, value in reversed(parts[:-1]):
            clause = (
                f"{name} {beyond}= {value} AND"
                f" ({name} {beyond} {value} OR ({name} = {value} AND {clause}))"
            )
        return clause

    def _query(self, sql: str) -> list[Any]:
        with self._reading() as connection:
            return query(connection, sql, side=self._side)

    @contextmanager
    def _reading(self) -> Iterator[Connection[Any]]:
        """The connection, for one read. It is freed if the read fails."""
        with self._lock:
            self._refuse_closed()
            known = self._connection
            if known is not None and time.monotonic() - self._used_at > IDLE_SECONDS:
                force_close(known)
                known = None
            # From here on ``close`` interrupts it.
            connection = self._connection = known or prepare(
                self._settings, timeout_seconds=TIMEOUT_SECONDS
            )
            self._reads = True
        well = False
        try:
            if known is None:
                establish(connection, self._side)
                return_text(connection)
                self._refuse_closed()  # ``close`` may have found no socket
            yield connection
            well = True
        finally:
            with self._lock:
                self._reads, self._used_at = False, time.monotonic()
                if self._closed or not well:
                    self._connection = None
                    force_close(connection)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise self._side.lost(f"the read of the {self._side.name} was stopped")


def _columns(table: Table, *, keys_only: bool) -> list[Column]:
    ordinals = table.key if keys_only else range(len(table.columns))
    return [table.columns[ordinal] for ordinal in ordinals]


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(f'({each})' for each in conditions)}" if conditions else ""


def _order(table: Table) -> str:
    """The columns of the key, to sort by."""
    return ", ".join(_operand(table.columns[ordinal]) for ordinal in table.key)


def _operand(column: Column) -> str:
    """A column of the key as the server compares and orders it: an enum or set by its number, which
    may have 64 bits, and a geometry by its bytes."""
    name, cast = quote_name(column.name), _CASTS.get(column.type.kind)
    return f"CAST({name} AS {cast})" if cast else name
