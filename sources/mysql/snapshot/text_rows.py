"""
Rows of a query's result, decoded by a function generated for the table, or by the compiled kernel.

The snapshot's half of the bargain: the same values as the stream's. The session asks for no charset
conversion (``character_set_results = NULL``), so text arrives in the column's own bytes and goes
through the very same decoders, and what the text protocol would round is selected in a form that it
does not.

The format is ``ProtocolText::ResultsetRow``: a length-encoded string per column, 0xFB for NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from types import CodeType

from engine.change import Row
from engine.databases.mysql.identifiers import quote_name
from engine.databases.mysql.types import INTEGER_KINDS, parse_type
from engine.errors import DecodeError
from engine.schema import Column, Table
from engine.toolkit.codegen import compile_function
from sources.mysql.codec.accelerator import Text, text_accelerator
from sources.mysql.codec.cells import bytes_expression
from sources.mysql.codec.images import Source
from sources.mysql.snapshot.result_set import cut_rows

__all__ = ["TextRows", "select_list", "text_rows"]

_MALFORMED = (ValueError, IndexError, OverflowError)

# Kinds whose text is always shorter than the first length that needs more than one byte.
_SHORT = frozenset(("date", "interval", "datetime", "timestamp", "decimal", "bit", "uuid"))
_AS_TEXT = frozenset(("date", "interval", "datetime", "timestamp"))


def select_list(table: Table) -> str:
    """What to select so that no value is rounded, for ``TextRows``.

    The session needs ``time_zone = '+00:00'``, ``character_set_results = NULL`` and an ``sql_mode``
    without PAD_CHAR_TO_FULL_LENGTH. Columns are named one by one: invisible ones are not in ``*``.
    """
    return ", ".join(map(_selected, table.columns))


def _selected(column: Column) -> str:
    source_type = parse_type(column.source_type)
    name = quote_name(column.name)
    if source_type.base in ("float", "double"):
        # As a float of unspecified scale it is printed with all its digits.
        return f"{name}+0e0"
    if source_type.base == "bit" or (source_type.base == "decimal" and source_type.zerofill):
        return f"{name}+0"
    if source_type.base in ("inet4", "inet6", "uuid"):
        return f"CAST({name} AS CHAR CHARACTER SET latin1)"
    return name


class TextRows:
    """Decodes the rows of ``SELECT <select_list>`` of a table into tuples as the stream would give.

    Both ways raise DecodeError, naming the column, for bytes that are no value of it.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._columns = [_text(table, column) for column in table.columns]
        self._quick = text_accelerator(self._columns)

    @cached_property
    def _written(self) -> tuple[Callable[[list[bytes]], list[Row]], list[int | None]]:
        """The generated function, and what each of its lines is about."""
        source = _write(self._columns)
        return compile_function("decode_text", source.text(), source.names), source.ordinals

    def take(self, data: bytes, start: int) -> tuple[list[Row], int]:
        """The rows whose packets begin at ``start``, and where the first packet stands that is not
        whole, goes on in another, or is no row.
        """
        if self._quick is not None:
            try:
                return self._quick(data, start)
            except _MALFORMED:
                pass  # Python decides
        packets, stop = cut_rows(data, start)
        return self.decode(packets), stop

    def decode(self, packets: list[bytes]) -> list[Row]:
        """The rows of whole packets, without their heads."""
        if not packets:
            return []
        function, ordinals = self._written
        try:
            return function(packets)
        except _MALFORMED as error:
            # The error's own text may hold a value, so it is not chained.
            raise _explained(error, function.__code__, ordinals, self._table) from None


@lru_cache(maxsize=1024)
def text_rows(table: Table) -> TextRows:
    """The decoder of a table's rows; those that were used last are kept, as they were made."""
    return TextRows(table)


def _explained(
    error: Exception, code: CodeType, ordinals: list[int | None], table: Table
) -> DecodeError:
    ordinal = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            ordinal = ordinals[trace.tb_lineno - 1]
        trace = trace.tb_next
    if ordinal is None:
        return DecodeError(
            "a row of a query's result is malformed",
            hint="Is there a proxy between Tailrace and the server? Connect directly.",
            table=table.id,
        )
    column = table.columns[ordinal]
    charset = parse_type(column.source_type).charset
    what = f"bytes that are no text in {charset}" if charset else "what is no value of its type"
    return DecodeError(
        f"the column {column.name} holds {what}",
        hint="Mend the value on the source, or declare the column's true character set there.",
        table=table.id,
    )


def _write(columns: Sequence[Text]) -> Source:
    source = Source()
    source.names["long"] = _long
    source.line("def decode_text(packets):")
    source.line("    rows = []; add = rows.append")
    source.line("    for data in packets:")
    source.line("        p = 0")
    for ordinal, column in enumerate(columns):
        _write_column(source, ordinal, column)
    source.line("        if p != len(data):")
    source.line("            raise IndexError(p)")
    source.line(f"        add(({', '.join(f'a{n}' for n in range(len(columns)))},))")
    source.line("    return rows")
    return source


def _write_column(source: Source, ordinal: int, column: Text) -> None:
    source.names.update(column.names)
    source.line("        n = data[p]; p += 1")
    indent = "        "
    # Nullability of the version may be older than the rows that are read.
    source.line(f"{indent}if n == 251:")
    source.line(f"{indent}    a{ordinal} = None")
    source.line(f"{indent}else:")
    indent += "    "
    if not column.short:
        source.line(f"{indent}if n > 250:")
        source.line(f"{indent}    n, p = long(data, n, p)")
    source.line(f"{indent}q = p; p += n")
    source.line(f"{indent}a{ordinal} = {column.value.replace('raw0', 'data[q:p]')}", ordinal)


def _text(table: Table, column: Column) -> Text:
    """How a column is read."""
    kind = column.type.kind
    source_type = parse_type(column.source_type)
    short = kind in _SHORT or kind in INTEGER_KINDS or kind in ("float32", "float64")
    if kind in INTEGER_KINDS or kind == "bit":
        return Text("int(raw0)", {}, short)
    if kind in ("float32", "float64"):
        return Text("float(raw0)", {}, short)
    if kind in ("decimal", "uuid") or kind in _AS_TEXT or source_type.base in ("inet4", "inet6"):
        return Text("raw0.decode()", {}, short)
    return Text(*bytes_expression(table, column, source_type, source_type.charset, "raw0"), short)


def _long(data: bytes, first: int, start: int) -> tuple[int, int]:
    """A length-encoded length after its first byte, and where the data start."""
    size = {252: 2, 253: 3, 254: 8}.get(first)
    if size is None:
        raise IndexError(first)
    end = start + size
    return int.from_bytes(data[start:end], "little"), end
