"""
Change records: one JSON line per change of a row or of a schema (docs/records.md).

A record is lossless: ``decode_image`` makes the row tuple of it again. Values have the form that
``engine.schema`` lists, except for these types, whose form JSON or ISO 8601 requires:

    binary, geometry      base64 (RFC 4648, padded)
    datetime              ``2026-01-31T12:00:00.000000``
    timestamp             ``2026-01-31T12:00:00.000000Z``
    float32, float64      a number with all digits; the texts ``"nan"``, ``"inf"``, ``"-inf"``
    int64, uint64, bit    a number, which readers must take for a 64-bit integer, not for a double

A function is generated for each version of a table and each set of present columns. It makes the
dicts that msgspec encodes. For a table with the columns ``id`` (int64), ``at`` (timestamp) and
``weight`` (float64), and with the constant ``inf``, it is (here in several lines)::

    def images(rows):
        return [{'id': row[0], 'at': row[1] and row[1].replace(' ', 'T') + 'Z',
                 'weight': row[2] if row[2] is None or -inf < row[2] < inf else str(row[2])}
                for row in rows]
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from engine.change import Begin, Change, Commit, Row, Rows, SchemaChange, Truncate
from engine.errors import ApplyError
from engine.schema import Table, TableId, Type
from engine.toolkit.codegen import compile_function
from engine.toolkit.debezium import Envelope, SchemaEnvelope, TransactionBlock, source_block

__all__ = [
    "Definition",
    "EnvelopeName",
    "Image",
    "Record",
    "RecordEncoder",
    "decode_image",
    "decode_record",
]

EnvelopeName = Literal["plain", "debezium"]
Image = dict[str, Any]


class Definition(msgspec.Struct, frozen=True):
    """The table in a record of op ``schema``.

    ``table`` is the version after the change, None if the table was dropped. ``previous`` is the
    former name of a renamed table. ``renamed`` lists renamed columns as pairs of old and new name.
    ``filled`` maps new columns to the value that existing rows have got in them.
    """

    table: Table | None
    previous: TableId | None
    renamed: tuple[tuple[str, str], ...]
    filled: Image = {}


class Record(msgspec.Struct, frozen=True, gc=False):
    """One change, in the plain form.

    ``op`` is insert, update, delete, read (a backfilled row), truncate or schema. ``schema``
    and ``table`` are the name of the table. ``version`` counts the versions of the table from 1.

    ``key`` holds the columns that identify the row, with their values before the change; null for
    a keyless table. ``before`` (update, delete) and ``after`` (insert, update, read) map columns to
    values; an image that does not apply is null. A column that is not in the log is missing in the
    image: its value is unknown, which is not null. ``absent`` names the columns that are missing in
    ``after`` (in ``before`` for a delete).

    ``transaction`` is the source's id of the transaction. ``position`` is where the transaction
    starts; a stream from there sends all of it. ``order`` is the record's ordinal within the
    transaction, from 0, so (transaction, order) identifies a change. ``committed_at`` is the commit
    time in ISO 8601, UTC, with microseconds; null if the log has none. All four are null for
    backfilled rows.

    ``statement`` and ``definition`` exist in records of op schema only.
    """

    op: str
    schema: str
    table: str
    version: int
    key: Image | None
    before: Image | None
    after: Image | None
    transaction: str | None
    position: str | None
    order: int | None
    committed_at: str | None
    absent: tuple[str, ...] | UnsetType = UNSET
    statement: str | UnsetType = UNSET
    definition: Definition | UnsetType = UNSET


class RecordEncoder:
    """Encodes changes, in the order of the log, as lines of JSON.

    The encoder keeps the state of the open transaction, so a transaction may be passed in pieces.
    ``envelope`` is ``plain``, or ``debezium`` for the form that Debezium's connectors send without
    schemas. ``name`` is the name of the pipeline, for the latter. Encoding raises ApplyError if a
    text is not valid Unicode.
    """

    def __init__(self, *, envelope: EnvelopeName = "plain", name: str = "tailrace") -> None:
        self._json = msgspec.json.Encoder()
        self._debezium = envelope == "debezium"
        self._name = name
        self.reset()

    def reset(self) -> None:
        """Forget the open transaction."""
        self._begin: Begin | None = None
        self._transaction: str | None = None
        self._position: str | None = None
        self._committed_at: str | None = None
        self._order = 0
        self._order_in: dict[TableId, int] = {}

    def encode(self, changes: Iterable[Change]) -> Iterator[bytes]:
        """Yield one line per record, with its line feed. ``Begin``, ``Commit``, ``Heartbeat``,
        ``CaughtUp`` and ``Cascade`` have no record.
        """
        for table, records in self._groups(changes):
            for record in records:
                yield self._lines(table, [record])

    def encode_all(self, changes: Iterable[Change]) -> bytes:
        """Return the lines of ``encode`` joined, which is faster."""
        return b"".join(self._lines(table, records) for table, records in self._groups(changes))

    def _lines(self, table: TableId, records: Sequence[object]) -> bytes:
        try:
            return self._json.encode_lines(records)
        except UnicodeEncodeError as error:
            raise ApplyError(
                "a text is not valid Unicode and cannot be written as JSON",
                hint='correct the value in the source, or add "TABLE" to exclude in [source]',
                table=table,
            ) from error

    def _groups(self, changes: Iterable[Change]) -> Iterator[tuple[TableId, Sequence[object]]]:
        """Yield the records of each change, with its table."""
        for change in changes:
            if type(change) is Begin:
                self._enter(change)
            elif type(change) is Commit:
                self.reset()
            elif type(change) is Rows:
                yield change.table.id, self._wrapped(change.table, self._of_rows(change))
            elif type(change) is Truncate:
                yield change.table.id, self._wrapped(change.table, [self._of_truncate(change)])
            elif type(change) is SchemaChange and (table := change.after or change.before):
                yield table.id, self._wrapped(table, [self._of_schema(change, table)])

    def _enter(self, begin: Begin) -> None:
        self.reset()
        self._begin = begin
        self._transaction = begin.transaction
        self._position = str(begin.position)
        if begin.committed_at:
            when = datetime.fromtimestamp(begin.committed_at, UTC)
            self._committed_at = f"{when:%Y-%m-%dT%H:%M:%S.%f}Z"

    def _orders(self, count: int) -> Iterable[int | None]:
        if self._begin is None:
            return repeat(None, count)
        first, self._order = self._order, self._order + count
        return range(first, self._order)

    def _of_rows(self, change: Rows) -> list[Record]:
        table, before, after = change.table, change.before, change.after
        known = change.before_present if after is None else change.after_present
        absent = UNSET if known is None else _absent(table, known)
        identified = before if before is not None else after or []
        keys = _imager(table, _mask(table.key))(identified) if table.key else repeat(None)
        befores = repeat(None) if before is None else _imager(table, change.before_present)(before)
        afters = repeat(None) if after is None else _imager(table, change.after_present)(after)
        id, version, op = table.id, table.version, change.op
        transaction, position, when = self._transaction, self._position, self._committed_at
        return [
            Record(
                *(op, id.schema, id.name, version, key, old, new),
                *(transaction, position, order, when, absent),
            )
            for key, old, new, order in zip(
                keys, befores, afters, self._orders(len(change)), strict=False
            )
        ]

    def _of_truncate(self, change: Truncate) -> Record:
        return self._bare("truncate", change.table)

    def _of_schema(self, change: SchemaChange, table: Table) -> Record:
        before = change.before
        renamed = before is not None and change.after is not None and before.id != change.after.id
        previous = before.id if renamed and before is not None else None
        filled = _filled(change.after, dict(change.filled)) if change.after is not None else {}
        definition = Definition(change.after, previous, change.renamed, filled)
        record = self._bare("schema", table)
        return msgspec.structs.replace(record, statement=change.statement, definition=definition)

    def _bare(self, op: str, table: Table) -> Record:
        (order,) = self._orders(1)
        return Record(
            *(op, table.id.schema, table.id.name, table.version, None, None, None),
            *(self._transaction, self._position, order, self._committed_at),
        )

    # -- Debezium's envelope -----------------------------------------------------------------------

    def _wrapped(self, table: Table, records: list[Record]) -> Sequence[object]:
        if not self._debezium:
            return records
        seconds = self._begin.committed_at if self._begin is not None else 0.0
        source = source_block(self._name, table.id, self._transaction, seconds)
        now = int(datetime.now(UTC).timestamp() * 1000)
        if records and isinstance(definition := records[0].definition, Definition):
            return [SchemaEnvelope.of(table, definition.table, records[0].statement, source, now)]
        first = self._order_in.get(table.id, 0)
        self._order_in[table.id] = first + len(records)
        return [
            Envelope.of(
                *(record.op, record.before, record.after, source, now),
                TransactionBlock.of(record.transaction, record.order, ordinal),
            )
            for ordinal, record in enumerate(records, first)
        ]


_decoder = msgspec.json.Decoder(Record)


def decode_record(line: bytes | str) -> Record:
    """Decode a line of the plain form. Raises ``msgspec.DecodeError`` if it is not a record."""
    return _decoder.decode(line)


def decode_image(table: Table, image: Mapping[str, Any]) -> Row:
    """Return the row tuple of an image; a column that is missing in the image is None."""
    return tuple(_decode_value(column.type, image.get(column.name)) for column in table.columns)


def _decode_value(type: Type, value: Any) -> Any:
    if value is None:
        return None
    if type.kind in ("binary", "geometry"):
        return b64decode(value)
    if type.kind in ("datetime", "timestamp"):
        return value.removesuffix("Z").replace("T", " ")
    if type.kind in ("float32", "float64"):
        return float(value)
    if type.kind == "array" and type.element is not None:
        return [_decode_value(type.element, inner) for inner in value]
    return value


def _filled(table: Table, values: Mapping[str, Any]) -> Image:
    """The values of new columns in existing rows, as an image."""
    row = tuple(values.get(name) for name in table.names)
    present = _mask(n for n, name in enumerate(table.names) if name in values)
    return _imager(table, present)([row])[0] if values else {}


def _mask(ordinals: Iterable[int]) -> int:
    return sum(1 << ordinal for ordinal in ordinals)


def _absent(table: Table, present: int) -> tuple[str, ...]:
    return tuple(name for n, name in enumerate(table.names) if not present >> n & 1)


@lru_cache(maxsize=4096)
def _imager(table: Table, present: int | None) -> Callable[[Sequence[Row]], list[Image]]:
    """Generate the function from rows of ``table`` to images of the present columns."""
    items = ", ".join(
        f"{column.name!r}: {_expression(column.type, f'row[{ordinal}]')}"
        for ordinal, column in enumerate(table.columns)
        if present is None or present >> ordinal & 1
    )
    source = f"def images(rows):\n    return [{{{items}}} for row in rows]\n"
    return compile_function("images", source, {"inf": float("inf")})


def _expression(type: Type, value: str) -> str:
    """The Python expression that converts the expression ``value`` to its JSON form.

    None stays None.
    """
    if type.kind == "datetime":
        return f"{value} and {value}.replace(' ', 'T')"
    if type.kind == "timestamp":
        return f"{value} and {value}.replace(' ', 'T') + 'Z'"
    if type.kind in ("float32", "float64"):
        return f"{value} if {value} is None or -inf < {value} < inf else str({value})"
    if type.kind == "array" and type.element is not None:
        inner = _expression(type.element, "item")
        return value if inner == "item" else f"{value} and [{inner} for item in {value}]"
    return value
