"""
Rows of the log, decoded by a function generated for exactly this table and this table map.

Idea 4 of the design: what a table's shape decides is decided when the function is written. Columns
of fixed size that follow each other are unpacked by one call; a row without a NULL takes a path
without a question. The bytes are trusted only as far as they add up: a row image must end where the
event ends, so no damage is silent, and nothing can be read twice.

Where the compiled kernel is there (``kernel.py``) it goes first. What it refuses the generated
function decodes again: that one decides what is right, and explains what is not.

The format is that of MySQL's ``Rows_event`` (``WRITE_ROWS``, ``UPDATE_ROWS``, ``DELETE_ROWS``, v1
and v2 alike from the column count on).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from types import CodeType
from typing import Any

from engine.change import Operation, Rows
from engine.databases.mysql.types import parse_type
from engine.errors import DecodeError, SchemaError
from engine.schema import Table
from engine.toolkit.codegen import compile_function
from sources.mysql.codec.accelerator import Accelerator, Decode, StoredImage, row_accelerator
from sources.mysql.codec.cells import cells
from sources.mysql.codec.defaults import constant_default
from sources.mysql.codec.images import Image, Source
from sources.mysql.codec.table_map import TableMap

__all__ = ["RowDecoder"]

_MALFORMED = (struct.error, IndexError, KeyError, ValueError, OverflowError, zlib.error)
_FULL_IMAGES = (
    "Set binlog_row_image=FULL on the source (globally, and in sessions that override it)."
)


class _Compiled:
    """A generated function, what its lines are about, and what is tried before it."""

    def __init__(
        self,
        function: Callable[..., Any],
        quick: Decode,
        lines: list[int | None],
        before: int | None,
        after: int | None,
    ) -> None:
        self.function = function
        self.quick = quick
        self.lines = lines
        self.before_present = before
        self.after_present = after


class RowDecoder:
    """Decodes the rows events that follow one table map.

    SchemaError if the table does not fit the map; see ``tablemap.mismatch``.
    """

    def __init__(self, table: Table, map: TableMap) -> None:
        if len(table.columns) != len(map.types):
            raise SchemaError(
                f"the table has {len(table.columns)} columns, its table map {len(map.types)}",
                hint="Set binlog_row_metadata=FULL on the source, or copy the table again.",
                table=table.id,
            )
        self.table = table
        self._nullable = map.nullable
        self._cells = _cells(table, map)
        self._accelerator = row_accelerator(self._cells, map)
        self._count = _packed(len(map.types))
        self._bitmap = (len(map.types) + 7) // 8
        one, two = len(self._count) + self._bitmap, len(self._count) + 2 * self._bitmap
        self._header_size = {"insert": one, "update": two, "delete": one}
        self._compiled: dict[tuple[Operation, bytes], _Compiled] = {}

    def decode(
        self, op: Operation, data: bytes, start: int, end: int, *, partial_json: bool = False
    ) -> Rows:
        """The rows in ``data[start:end]``: column count, presence bitmap(s), row images.

        Raises DecodeError if the bytes are not rows of this table, SchemaError for images of
        ``binlog_row_value_options=PARTIAL_JSON``.
        """
        if partial_json:
            raise self._refuse_partial_json()
        header = data[start : start + self._header_size[op]]
        compiled = self._compiled.get((op, header))
        if compiled is None:
            compiled = self._compile(op, header)
        at = start + len(header)
        try:
            try:
                before, after, stop = compiled.quick(data, at, end)
            except _MALFORMED:
                before, after, stop = compiled.function(data, at, end)
        except _MALFORMED as error:
            raise self._explain(error, compiled) from error
        if stop != end:
            raise self._malformed("a row ends behind the event's end")
        return Rows(
            self.table,
            op,
            before,
            after,
            compiled.before_present,
            compiled.after_present,
            end - start,
        )

    def source(self, op: Operation, header: bytes) -> str:
        """The text of the generated function, for people."""
        text: str = self._compile(op, header).function.__source__  # type: ignore[attr-defined]
        return text

    def _compile(self, op: Operation, header: bytes) -> _Compiled:
        if not header.startswith(self._count) or len(header) != self._header_size[op]:
            raise self._malformed("its number of columns is not that of its table map")
        bitmaps = header[len(self._count) :]
        masks = [
            self._mask(bitmaps[at : at + self._bitmap])
            for at in range(0, len(bitmaps), self._bitmap)
        ]
        writer = _Writer(self.table, self._cells, self._nullable, self._accelerator)
        compiled = writer.compile(op, masks)
        self._compiled[op, header] = compiled
        return compiled

    def _mask(self, bitmap: bytes) -> int:
        mask = int.from_bytes(bitmap, "little") & ((1 << len(self._cells)) - 1)
        if not mask:
            raise self._malformed("a row image has no columns")
        return mask

    def _malformed(self, reason: str) -> DecodeError:
        return DecodeError(
            f"a rows event is malformed: {reason}",
            hint="The log is damaged there, or the table's definition is not the one at that "
            "place; copy the table again.",
            table=self.table.id,
        )

    def _explain(self, error: Exception, compiled: _Compiled) -> DecodeError:
        code: CodeType = compiled.function.__code__
        ordinal = None
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is code:
                ordinal = compiled.lines[trace.tb_lineno - 1]
            trace = trace.tb_next
        if ordinal is None:
            return self._malformed("a row is cut off")
        column = self.table.columns[ordinal]
        if not isinstance(error, UnicodeDecodeError):
            return self._malformed(f"a value of the column {column.name} cannot be")
        charset = parse_type(column.source_type).charset or "utf8mb4"
        return DecodeError(
            f"the column {column.name} holds bytes that are no text in {charset}",
            hint=f"Mend the value on the source, or declare the column's true character set there "
            f"(ALTER TABLE … MODIFY {column.name} BLOB, then to the right one).",
            table=self.table.id,
        )

    def _refuse_partial_json(self) -> SchemaError:
        return SchemaError(
            "the log holds parts of JSON documents only",
            hint="SET GLOBAL binlog_row_value_options = '' on the source, let its sessions "
            "reconnect, and copy the table again.",
            table=self.table.id,
        )


def _cells(table: Table, map: TableMap) -> Any:
    try:
        return cells(table, map)
    except (ValueError, KeyError) as error:
        raise SchemaError(
            f"the table does not fit its table map: {error}",
            hint="Copy the table again.",
            table=table.id,
        ) from error


def _packed(number: int) -> bytes:
    """A length-encoded integer."""
    return bytes([number]) if number < 251 else b"\xfc" + number.to_bytes(2, "little")


class _Writer:
    """Writes the decoder of one operation for one pair of presence masks."""

    def __init__(self, table: Table, cells: Any, nullable: int, kernel: Accelerator | None) -> None:
        self.table = table
        self.kernel = kernel
        self.cells = cells
        self.nullable = nullable
        self.all = (1 << len(cells)) - 1
        self.key = sum(1 << ordinal for ordinal in table.key)

    def compile(self, op: Operation, masks: list[int]) -> _Compiled:
        before = masks[0] if op != "insert" else None
        after = masks[-1] if op != "delete" else None
        source = Source()
        source.line(f"def decode_{op}(data, p, end):")
        images: dict[str, StoredImage] = {}
        if before is not None:
            self._identified(before)
            source.line("    before = []; add_before = before.append")
            images["before"] = StoredImage(before, self._before(before))
        if after is not None:
            source.line("    after = []; add_after = after.append")
            fill = self._inserted(after) if before is None else self._updated(after)
            images["after"] = StoredImage(after, fill)
        source.line("    while p < end:")
        for name, stored in images.items():
            image = Image(self.cells, stored.mask, self.nullable, name[0])
            image.write(source, "        ")
            source.line(f"        add_{name}(({', '.join(stored.values)},))")
        results = [name if name in images else "None" for name in ("before", "after")]
        source.line(f"    return {', '.join(results)}, p")
        function = compile_function(f"decode_{op}", source.text(), source.names)
        quick: Decode = function
        if self.kernel is not None:
            quick = self.kernel.decoder(images.get("before"), images.get("after"))
        return _Compiled(
            function,
            quick,
            source.ordinals,
            None if before in (None, self.all) else before,
            None if op == "insert" or after in (None, self.all) else (after or 0) | self.key,
        )

    def _before(self, mask: int) -> list[str]:
        return [
            f"b{ordinal}" if mask >> ordinal & 1 else "None" for ordinal in range(len(self.cells))
        ]

    def _identified(self, mask: int) -> None:
        if mask != self.all and (not self.key or self.key & ~mask):
            raise DecodeError(
                "a row image in the log lacks the columns that identify the row",
                hint=_FULL_IMAGES,
                table=self.table.id,
            )

    def _updated(self, mask: int) -> list[str]:
        """A key column that the after image leaves out has not changed."""
        return [
            f"a{ordinal}"
            if mask >> ordinal & 1
            else (f"b{ordinal}" if self.key >> ordinal & 1 else "None")
            for ordinal in range(len(self.cells))
        ]

    def _inserted(self, mask: int) -> list[str]:
        """A column that a new row leaves out has its default."""
        return [
            f"a{ordinal}" if mask >> ordinal & 1 else self._default(ordinal)
            for ordinal in range(len(self.cells))
        ]

    def _default(self, ordinal: int) -> str:
        column = self.table.columns[ordinal]
        try:
            return repr(constant_default(column))
        except ValueError as error:
            raise DecodeError(
                f"the log leaves out the column {column.name}, whose default is not a constant",
                hint=_FULL_IMAGES,
                table=self.table.id,
            ) from error
