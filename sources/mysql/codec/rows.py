"""
The row decoder: row images of the binary log become row tuples.

``RowDecoder`` writes a Python function for one table version, one table map, one operation and one
set of presence bitmaps, compiles it once and keeps it. Everything that the table's shape decides is
decided while the function is written: ``cells`` makes the expression that reads each column,
``images`` writes the code around the expressions. Columns of fixed size that follow each other are
unpacked by one call, and a row without a NULL takes a path without NULL tests.

For an INSERT into ``t (id INT NOT NULL, size SMALLINT, name VARCHAR(40))`` in utf8mb4 the generated
function is::

    def decode_insert(data, p, end):
        after = []; add_after = after.append
        while p < end:
            nulls, a0 = unpack_Bi(data, p)
            p += 5
            if nulls & 6:
                if nulls & 6:
                    unpack, unpack_big, size = shapes_a1[nulls & 6]
                    a1, a2_0, = unpack(data, p)
                    p += size
                    if nulls & 2:
                        a1 = None
                    if nulls & 4:
                        a2 = None
                    else:
                        q = p
                        p = q + a2_0
                        a2 = data[q:p].decode()
                else:
                    a1, a2_0 = unpack_hB(data, p)
                    q = p + 3
                    p = q + a2_0
                    a2 = data[q:p].decode()
            else:
                a1, a2_0 = unpack_hB(data, p)
                q = p + 3
                p = q + a2_0
                a2 = data[q:p].decode()
            add_after((a0, a1, a2,))
        return None, after, p

``p`` is the position in ``data``. ``unpack_Bi`` is the ``unpack_from`` of the struct codes ``<Bi``:
the null bitmap and ``id``. ``shapes_a1`` gives, for the NULLs among ``size`` and ``name``, how the
two are unpacked and the bytes that they take; see ``images``.

The bytes come from a server and are not trusted. The position only moves forward, and the last row
image must end exactly where the event ends; otherwise the event is refused with DecodeError.

Where the C accelerator is built (``accelerator``), it decodes each event first. The generated
function decodes again what the accelerator refuses: it defines which bytes are valid, and its
errors name the column. Large rows of large events are read by ``large_rows``, to save memory.

The format is that of MySQL's ``Rows_event`` (``WRITE_ROWS``, ``UPDATE_ROWS``, ``DELETE_ROWS``, v1
and v2 alike from the column count on).
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

import msgspec

from engine.change import Cascade, Operation, Row, Rows
from engine.errors import DecodeError, SchemaError, UnloggedChange
from engine.remedies import BACKFILL
from engine.schema import Table
from engine.toolkit.codegen import compile_function
from sources.mysql.codec.accelerator import Accelerator, Decode, StoredImage, row_accelerator
from sources.mysql.codec.binary_json import json_printer
from sources.mysql.codec.cells import cells
from sources.mysql.codec.defaults import constant_default
from sources.mysql.codec.images import Image, SourceCode
from sources.mysql.codec.invalid_text import InvalidText, not_text
from sources.mysql.codec.json_diff import document_after
from sources.mysql.codec.large_event import LargeEvent
from sources.mysql.codec.large_rows import LargeRows
from sources.mysql.codec.table_map import TableMap, Wire
from sources.mysql.codec.versioned import current_rows, row_end

__all__ = ["RowDecoder"]

_MALFORMED = (struct.error, IndexError, KeyError, ValueError, OverflowError, zlib.error)
_FULL_IMAGES = "set binlog_row_image=FULL on the source, globally and in sessions that override it"


class _Compiled:
    """The decoder of one operation for one set of presence bitmaps.

    ``decode`` is tried first: the accelerator's decoder, or ``function`` where there is none.
    ``function`` is the generated function, ``ordinals`` the column that each of its lines reads.
    ``large`` reads large rows; it is made for the first large event.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        decode: Decode,
        ordinals: list[int | None],
        before: int | None,
        after: int | None,
        images: Mapping[str, StoredImage],
    ) -> None:
        self.images = images
        self.large: LargeRows | None = None
        self.function = function
        self.decode = decode
        self.ordinals = ordinals
        self.before_present = before
        self.after_present = after


class RowDecoder:
    """Decodes the rows events that follow one table map.

    ``derive`` makes what the rows mean of rows that the log shows: those of a table with a history,
    or with children that foreign keys change. It is None for other tables. Its second argument is
    whether the session has checked foreign keys.

    Raises SchemaError if the table does not fit the map; see ``table_match.mismatch``.
    """

    def __init__(
        self, table: Table, map: TableMap, invalid_text: InvalidText | None = None
    ) -> None:
        if len(table.columns) != len(map.types):
            raise SchemaError(
                f"the table has {len(table.columns)} columns, its table map {len(map.types)}",
                hint=f"SET GLOBAL binlog_row_metadata = 'FULL' on the source; {BACKFILL}",
                table=table.id,
            )
        self.table = table
        end = row_end(table)
        self.derive: Callable[[Rows, bool], Sequence[Rows | Cascade]] | None = None
        if end is not None:
            self.derive = lambda rows, checks: current_rows(rows, end)
        self._map = map
        #: Used, and then None, when the first invalid text is met.
        self._invalid_text = invalid_text
        self._nullable = map.nullable
        self._cells = _cells(table, map)
        self._accelerator = row_accelerator(self._cells, map)
        self._count = _packed(len(map.types))
        self._bitmap = (len(map.types) + 7) // 8
        one, two = len(self._count) + self._bitmap, len(self._count) + 2 * self._bitmap
        self._header_size = {"insert": one, "update": two, "delete": one}
        self._compiled: dict[tuple[Operation, bytes, bool], _Compiled] = {}

    def decode(
        self,
        op: Operation,
        data: bytes | LargeEvent,
        start: int,
        end: int,
        *,
        partial_json: bool = False,
    ) -> Rows:
        """The rows in ``data[start:end]``: column count, presence bitmap(s), row images. A large
        event can be decoded once.

        ``partial_json``: the images are those of ``binlog_row_value_options=PARTIAL_JSON``. Raises
        DecodeError if the bytes are not rows of this table, UnloggedChange if a document has
        changed in part and the image does not have it as it was before.
        """
        header = data[start : start + self._header_size[op]]
        compiled = self._compiled.get((op, header, partial_json))
        if compiled is None:
            compiled = self._compile(op, header, partial_json=partial_json)
        at = start + len(header)
        if isinstance(data, LargeEvent):
            assert not data.spent, "a large event is decoded twice"
            data.spent = True
            if not self._large_rows(compiled).begins(data, at, end):
                data = data.take(0, end)
        try:
            if isinstance(data, LargeEvent):
                before, after, stop = self._decode_large(compiled, data, at, end)
            else:
                try:
                    before, after, stop = compiled.decode(data, at, end)
                except _MALFORMED:
                    before, after, stop = compiled.function(data, at, end)
        except _MALFORMED as error:
            if isinstance(error, UnicodeDecodeError) and self._accept_invalid_text():
                return self.decode(op, data, start, end, partial_json=partial_json)
            raise self._explain(error, _ordinal(error, compiled)) from error
        if stop != end:
            raise self._malformed("a row extends past the end of the event")
        return Rows(
            self.table,
            op,
            before,
            after,
            compiled.before_present,
            compiled.after_present,
            end - start,
        )

    def _large_rows(self, compiled: _Compiled) -> LargeRows:
        """The reader of large rows. It uses the policies for invalid text from the beginning: the
        bytes are gone after it, so they are not decoded again.
        """
        if compiled.large is None:
            cells = self._cells
            if self._invalid_text is not None:
                cells = _cells(self.table, self._map, self._invalid_text)
            images = compiled.images
            before, after = images.get("before"), images.get("after")
            compiled.large = LargeRows(cells, self._nullable, before, after)
        return compiled.large

    def _decode_large(
        self, compiled: _Compiled, event: LargeEvent, start: int, end: int
    ) -> tuple[list[Row] | None, list[Row] | None, int]:
        large = self._large_rows(compiled)
        try:
            return large.decode(event, start, end)
        except _MALFORMED as error:
            raise self._explain(error, large.ordinal) from error

    def _accept_invalid_text(self) -> bool:
        """Make the decoders again, with the policies for invalid text; False if that is done."""
        if self._invalid_text is None:
            return False
        self._cells = _cells(self.table, self._map, self._invalid_text)
        self._accelerator = row_accelerator(self._cells, self._map)
        self._invalid_text = None
        self._compiled.clear()
        return True

    def source(self, op: Operation, header: bytes) -> str:
        """The text of the generated function, for debugging and tests."""
        text: str = self._compile(op, header).function.__source__  # type: ignore[attr-defined]
        return text

    def _compile(self, op: Operation, header: bytes, *, partial_json: bool = False) -> _Compiled:
        if not header.startswith(self._count) or len(header) != self._header_size[op]:
            raise self._malformed("its column count is not that of its table map")
        bitmaps = header[len(self._count) :]
        masks = [
            self._mask(bitmaps[at : at + self._bitmap])
            for at in range(0, len(bitmaps), self._bitmap)
        ]
        if partial_json:
            names: dict[str, Callable[..., str]] = {
                "document_after": functools.partial(
                    document_after, text=json_printer(self._map.mysql)
                ),
                "without_before": self._without_before,
            }
            writer: _Writer = _PartialWriter(
                self.table, self._cells, self._nullable, self._documents(), names
            )
        else:
            writer = _Writer(self.table, self._cells, self._nullable, self._accelerator)
        compiled = writer.compile(op, masks)
        self._compiled[op, header, partial_json] = compiled
        return compiled

    def _documents(self) -> list[int]:
        """The ordinals of the JSON columns."""
        return [ordinal for ordinal, wire in enumerate(self._map.types) if wire == Wire.JSON]

    def _mask(self, bitmap: bytes) -> int:
        mask = int.from_bytes(bitmap, "little") & ((1 << len(self._cells)) - 1)
        if not mask:
            raise self._malformed("a row image has no columns")
        return mask

    def _malformed(self, reason: str) -> DecodeError:
        return DecodeError(
            f"a rows event is malformed: {reason}",
            hint="the log is damaged at this position, or the table's definition is not the one "
            f"that the log was written with; {BACKFILL}",
            table=self.table.id,
        )

    def _explain(self, error: Exception, ordinal: int | None) -> DecodeError:
        if ordinal is None:
            return self._malformed("a row is cut off")
        column = self.table.columns[ordinal]
        if not isinstance(error, UnicodeDecodeError):
            return self._malformed(f"the column {column.name} has an invalid value")
        return not_text(self.table, column)

    def _without_before(self, data: bytes, partial: int) -> str:
        """A document whose column the image before the update does not have."""
        if not partial:
            return json_printer(self._map.mysql)(data)
        raise UnloggedChange(
            "the log holds only the changed parts of JSON documents, and not the documents before",
            hint="run SET GLOBAL binlog_row_image = 'FULL', or SET GLOBAL binlog_row_value_options"
            " = '', on the source, and let its sessions reconnect",
            table=self.table.id,
        )


def _ordinal(error: Exception, compiled: _Compiled) -> int | None:
    """The column whose line of the generated function has raised an error."""
    code: CodeType = compiled.function.__code__
    ordinal = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            ordinal = compiled.ordinals[trace.tb_lineno - 1]
        trace = trace.tb_next
    return ordinal


def _cells(table: Table, map: TableMap, invalid_text: InvalidText | None = None) -> Any:
    try:
        return cells(table, map, invalid_text)
    except (ValueError, KeyError) as error:
        raise SchemaError(
            f"the table does not fit its table map: {error}",
            hint=BACKFILL,
            table=table.id,
        ) from error


def _packed(number: int) -> bytes:
    """A length-encoded integer."""
    return bytes([number]) if number < 251 else b"\xfc" + number.to_bytes(2, "little")


class _Writer:
    """Writes the decoder of one operation for its one or two presence masks."""

    def __init__(
        self, table: Table, cells: Any, nullable: int, accelerator: Accelerator | None
    ) -> None:
        self.table = table
        self.accelerator = accelerator
        self.cells = cells
        self.nullable = nullable
        self.all = (1 << len(cells)) - 1
        self.key = sum(1 << ordinal for ordinal in table.key)

    def compile(self, op: Operation, masks: list[int]) -> _Compiled:
        before = masks[0] if op != "insert" else None
        after = masks[-1] if op != "delete" else None
        source = SourceCode()
        source.line(f"def decode_{op}(data, p, end):")
        images: dict[str, StoredImage] = {}
        if before is not None:
            self._check_identified(before)
            source.line("    before = []; add_before = before.append")
            images["before"] = StoredImage(before, self._before_values(before))
        if after is not None:
            source.line("    after = []; add_after = after.append")
            values = self._insert_values(after) if before is None else self._update_values(after)
            images["after"] = StoredImage(after, values)
        source.line("    while p < end:")
        for name, stored in images.items():
            self._write_image(source, name, stored.mask)
            source.line(f"        add_{name}(({', '.join(stored.values)},))")
        results = [name if name in images else "None" for name in ("before", "after")]
        source.line(f"    return {', '.join(results)}, p")
        function = compile_function(f"decode_{op}", source.text(), source.names)
        decode: Decode = function
        if self.accelerator is not None:
            decode = self.accelerator.decoder(images.get("before"), images.get("after"))
        return _Compiled(
            function,
            decode,
            source.ordinals,
            None if before in (None, self.all) else before,
            None if op == "insert" or after in (None, self.all) else (after or 0) | self.key,
            images,
        )

    def _write_image(self, source: SourceCode, name: str, mask: int) -> None:
        Image(self.cells, mask, self.nullable, name[0]).write(source, "        ")

    def _before_values(self, mask: int) -> list[str]:
        return [
            f"b{ordinal}" if mask >> ordinal & 1 else "None" for ordinal in range(len(self.cells))
        ]

    def _check_identified(self, mask: int) -> None:
        if mask != self.all and (not self.key or self.key & ~mask):
            raise DecodeError(
                "a row image in the log lacks the columns that identify the row",
                hint=_FULL_IMAGES,
                table=self.table.id,
            )

    def _update_values(self, mask: int) -> list[str]:
        """The values after an update; a key column that the after image omits has not changed."""
        return [
            f"a{ordinal}"
            if mask >> ordinal & 1
            else (f"b{ordinal}" if self.key >> ordinal & 1 else "None")
            for ordinal in range(len(self.cells))
        ]

    def _insert_values(self, mask: int) -> list[str]:
        """The values of a new row; a column that the image omits has its default."""
        return [
            f"a{ordinal}" if mask >> ordinal & 1 else self._default(ordinal)
            for ordinal in range(len(self.cells))
        ]

    def _default(self, ordinal: int) -> str:
        column = self.table.columns[ordinal]
        try:
            return repr(constant_default(column))
        except ValueError as error:
            raise UnloggedChange(
                f"the log omits the column {column.name}, whose default is not a constant",
                hint=_FULL_IMAGES,
                table=self.table.id,
            ) from error


class _PartialWriter(_Writer):
    """Writes the decoder of updates whose documents may have changed in part.

    An image after the update starts with its options: 1 if a bit for each JSON column follows, set
    if the column has diffs to the document before (``json_diff``). The accelerator is not used.
    ``names`` are the functions ``document_after`` and ``without_before``.
    """

    def __init__(
        self,
        table: Table,
        cells: Any,
        nullable: int,
        documents: Sequence[int],
        names: dict[str, Callable[..., str]],
    ) -> None:
        super().__init__(table, cells, nullable, None)
        self._documents = documents
        self._names = names
        self._before = 0

    def _write_image(self, source: SourceCode, name: str, mask: int) -> None:
        if name == "before":
            self._before = mask
            super()._write_image(source, name, mask)
            return
        size = (len(self._documents) + 7) // 8
        source.line("        partial = 0")
        source.line("        if data[p]:")
        source.line("            if data[p] != 1:")
        source.line("                raise ValueError('options of an image that are not known')")
        source.line(f"            partial = from_bytes(data[p + 1:p + 1 + {size}], 'little')")
        source.line(f"            p += {size}")
        source.line("        p += 1")
        cells = list(self.cells)
        for bit, ordinal in enumerate(self._documents):
            flag = f"partial >> {bit} & 1"
            known = self._before >> ordinal & 1
            value = (
                f"document_after(b{ordinal}, raw0, {flag})"
                if known
                else f"without_before(raw0, {flag})"
            )
            cells[ordinal] = msgspec.structs.replace(cells[ordinal], value=value, names=self._names)
        Image(cells, mask, self.nullable, name[0]).write(source, "        ")
