"""
Rows of a query's result, decoded by a function generated for the table, or by the accelerator.

The snapshot must give the same values as the stream. The session therefore asks for no character
set conversion (``character_set_results = NULL``), so text arrives in the column's own bytes and is
decoded by the same expressions (``sources.mysql.codec.cells``). Values that the text protocol would
round are selected in a form that it does not round (``select_list``).

For ``t (id INT, name VARCHAR(40))`` in utf8mb4 the generated function is::

    def decode_text(packets):
        rows = []; add = rows.append
        for data in packets:
            p = 0
            n = data[p]; p += 1
            if n == 251:
                a0 = None
            else:
                q = p; p += n
                a0 = int(data[q:p])
            n = data[p]; p += 1
            if n == 251:
                a1 = None
            else:
                if n > 250:
                    n, p = long(data, n, p)
                q = p; p += n
                a1 = data[q:p].decode()
            if p != len(data):
                raise IndexError(p)
            add((a0, a1,))
        return rows

``packets`` are row packets without their headers, ``p`` is the position in a packet, ``long`` reads
a length of more than one byte. The docstring of ``sources.mysql.codec.rows`` shows a decoder of the
log's rows.

The format is ``ProtocolText::ResultsetRow``: a length-encoded string per column, 0xFB for NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from types import CodeType
from typing import Any

from engine.change import Row
from engine.databases.mysql.identifiers import quote_name
from engine.databases.mysql.types import INTEGER_KINDS, parse_type
from engine.errors import DecodeError
from engine.schema import Column, Table
from engine.toolkit.codegen import compile_function
from sources.mysql.codec.accelerator import Text, text_accelerator
from sources.mysql.codec.cells import bytes_expression, label_texts
from sources.mysql.codec.images import SourceCode
from sources.mysql.codec.invalid_text import InvalidText, not_text
from sources.mysql.codec.large_event import LargeEvent
from sources.mysql.snapshot.result_set import cut_rows

__all__ = ["TextRows", "select_list", "text_rows"]

_NULL = 251
_MALFORMED = (ValueError, IndexError, OverflowError)

# Kinds whose texts are always so short that their length takes one byte.
_SHORT = frozenset(("date", "interval", "datetime", "timestamp", "decimal", "bit", "uuid"))
_LABELLED = frozenset(("enum", "set"))
_AS_TEXT = frozenset(("date", "interval", "datetime", "timestamp"))


def select_list(table: Table, *, raw_line_breaks: bool = False) -> str:
    """The columns of ``table`` as a SELECT list for ``TextRows``, so that no value is rounded.

    ``raw_line_breaks``: the server does not escape the line breaks that it prints in JSON strings,
    between the lines of base64, as MySQL 5.7 does.

    The session needs ``time_zone = '+00:00'``, ``character_set_results = NULL`` and an ``sql_mode``
    without PAD_CHAR_TO_FULL_LENGTH. Every column is named, because ``*`` omits invisible ones.
    """
    return ", ".join(_selected(column, raw_line_breaks) for column in table.columns)


def _selected(column: Column, raw_line_breaks: bool) -> str:
    source_type = parse_type(column.source_type)
    name = quote_name(column.name)
    if source_type.base in ("float", "double"):
        # The product has no declared scale, so it is printed with all its digits. A sum would lose
        # the sign of -0.
        return f"{name}*1e0"
    if source_type.base == "bit" or (source_type.base == "decimal" and source_type.zerofill):
        return f"{name}+0"
    if source_type.base in _LABELLED and not source_type.charset:
        return f"CAST({name} AS UNSIGNED)"  # the labels' bytes have no charset
    if source_type.base in ("inet4", "inet6", "uuid"):
        return f"CAST({name} AS CHAR CHARACTER SET latin1)"
    if raw_line_breaks and source_type.base == "json":
        return f"REPLACE({name}, x'0A', x'5C6E')"
    return name


class TextRows:
    """Decodes the rows of ``SELECT <select_list>`` into the tuples that the stream would give.

    Text is decoded strictly until the first invalid text, and then as ``invalid_text`` says. Raises
    DecodeError, which names the column, for bytes that are not a value of the column.
    """

    def __init__(self, table: Table, invalid_text: InvalidText | None = None) -> None:
        self._table = table
        self._invalid_text = invalid_text
        self._compiled = _Compiled(table, None)
        #: For each column, how a large row's value is made.
        self._large: list[Callable[[bytes], Any]] | None = None

    def take(self, data: bytes, start: int) -> tuple[list[Row], int]:
        """The rows of the packets from ``start`` on, and the position of the first packet that is
        incomplete, continues in another packet, or is not a row.
        """
        accelerated = self._compiled.accelerated
        if accelerated is not None:
            try:
                return accelerated(data, start)
            except _MALFORMED:
                pass  # the generated function decodes the rows, or names the error
        packets, stop = cut_rows(data, start)
        return self.decode(packets), stop

    def decode(self, packets: list[bytes]) -> list[Row]:
        """The rows of complete packets, which are given without their headers."""
        if not packets:
            return []
        compiled = self._compiled
        function, ordinals = compiled.generated
        try:
            return function(packets)
        except _MALFORMED as error:
            if (
                isinstance(error, UnicodeDecodeError)
                and not compiled.accepts
                and self._invalid_text
            ):
                # Other threads may use the old decoders meanwhile.
                self._compiled = _Compiled(self._table, self._invalid_text)
                return self.decode(packets)
            # Not chained: the text of the error may hold a value.
            ordinal = _ordinal(error, function.__code__, ordinals)
            raise _decode_error(error, ordinal, self._table) from None

    def decode_large(self, packet: LargeEvent) -> Row:
        """The row of one packet, whose memory is given back while its values are made. Its bytes
        are gone after that, so invalid text follows its policies from the beginning.
        """
        if self._large is None:
            texts = [_text(self._table, it, self._invalid_text) for it in self._table.columns]
            self._large = [_value_function(text) for text in texts]
        row: list[Any] = []
        at, ordinal = 0, None
        try:
            for make in self._large:
                size, at = packet[at], at + 1
                if size == _NULL:
                    row.append(None)
                    continue
                if size > _NULL:
                    size, at = _long(packet, size, at)
                if at + size > len(packet):
                    raise IndexError(at)
                ordinal = len(row)
                row.append(make(packet.take(at, at + size)))
                at, ordinal = at + size, None
            if at != len(packet):
                raise IndexError(at)
        except _MALFORMED as error:
            raise _decode_error(error, ordinal, self._table) from None
        return tuple(row)


class _Compiled:
    """The decoders of a table's rows. ``accepts``: invalid text follows its policies."""

    def __init__(self, table: Table, invalid_text: InvalidText | None) -> None:
        self.accepts = invalid_text is not None
        self.columns = [_text(table, column, invalid_text) for column in table.columns]
        self.accelerated = text_accelerator(self.columns)

    @cached_property
    def generated(self) -> tuple[Callable[[list[bytes]], list[Row]], list[int | None]]:
        """The generated function, and the column that each of its lines reads."""
        source = _write(self.columns)
        return compile_function("decode_text", source.text(), source.names), source.ordinals


@lru_cache(maxsize=1024)
def text_rows(table: Table, invalid_text: InvalidText | None = None) -> TextRows:
    """The decoder of a table's rows; the most recently used decoders are cached."""
    return TextRows(table, invalid_text)


def _value_function(column: Text) -> Callable[[bytes], Any]:
    source = f"def value(raw0):\n    return {column.value}\n"
    return compile_function("value", source, column.names)


def _ordinal(error: Exception, code: CodeType, ordinals: list[int | None]) -> int | None:
    """The column whose line of the generated function has raised an error."""
    ordinal = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            ordinal = ordinals[trace.tb_lineno - 1]
        trace = trace.tb_next
    return ordinal


def _decode_error(error: Exception, ordinal: int | None, table: Table) -> DecodeError:
    if ordinal is None:
        return DecodeError(
            "a row of a query's result is malformed",
            hint="if there is a proxy between Tailrace and the server, connect directly",
            table=table.id,
        )
    column = table.columns[ordinal]
    if isinstance(error, UnicodeDecodeError):
        return not_text(table, column)
    return DecodeError(
        f"the column {column.name} holds an invalid value",
        hint="correct the value on the source",
        table=table.id,
    )


def _write(columns: Sequence[Text]) -> SourceCode:
    source = SourceCode()
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


def _write_column(source: SourceCode, ordinal: int, column: Text) -> None:
    source.names.update(column.names)
    source.line("        n = data[p]; p += 1")
    indent = "        "
    # Any column may be NULL: the table version may be older than the rows.
    source.line(f"{indent}if n == 251:")
    source.line(f"{indent}    a{ordinal} = None")
    source.line(f"{indent}else:")
    indent += "    "
    if not column.short:
        source.line(f"{indent}if n > 250:")
        source.line(f"{indent}    n, p = long(data, n, p)")
    source.line(f"{indent}q = p; p += n")
    source.line(f"{indent}a{ordinal} = {column.value.replace('raw0', 'data[q:p]')}", ordinal)


def _text(table: Table, column: Column, invalid_text: InvalidText | None) -> Text:
    """The expression that reads a column, and whether its texts are short."""
    kind = column.type.kind
    source_type = parse_type(column.source_type)
    short = kind in _SHORT or kind in INTEGER_KINDS or kind in ("float32", "float64")
    if kind in INTEGER_KINDS or kind == "bit":
        return Text("int(raw0)", {}, short)
    if kind in ("float32", "float64"):
        return Text("float(raw0)", {}, short)
    if kind in ("decimal", "uuid") or kind in _AS_TEXT or source_type.base in ("inet4", "inet6"):
        return Text("raw0.decode()", {}, short)
    if source_type.base in _LABELLED and not source_type.charset:
        labels = f"labels_{table.ordinal(column.name)}"
        return Text(f"{labels}[int(raw0)]", {labels: label_texts(source_type)}, True)
    charset = source_type.encoding
    value = bytes_expression(table, column, source_type, charset, "raw0", invalid_text)
    return Text(*value, short)


def _long(data: bytes | LargeEvent, first: int, start: int) -> tuple[int, int]:
    """A length-encoded length whose first byte is above 250, and the position after it."""
    size = {252: 2, 253: 3, 254: 8}.get(first)
    if size is None:
        raise IndexError(first)
    end = start + size
    return int.from_bytes(data[start:end], "little"), end
