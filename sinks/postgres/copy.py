"""
Row tuples become COPY text: an encoder generated for each table version.

The idea: one f-string makes a row, in a list comprehension, with no branch that the table does not
need. Escaping is avoided rather than done: a piece of some hundred rows is encoded as if no text in
it needed any, then tabs, newlines and backslashes are counted at the speed of ``memchr``. If there
are more than the encoder itself put there, the piece is encoded again, value by value. The
backslashes it put there itself are known exactly, because every one is drawn from a counted
iterator.

Format: PostgreSQL manual, COPY, "Text Format".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import repeat
from operator import length_hint
from typing import Any, NamedTuple

from engine.change import Row
from engine.codegen import compile_function
from engine.errors import ApplyError
from engine.schema import Column, TableId, Type
from sinks.postgres.types import TEMPORAL, TEXTUAL

__all__ = ["Encoder", "Field", "escape"]

NULL = r"\N"
HEX = r"\\x"
#: Aimed at: large enough to be sent at full speed, small enough to leave the event loop free.
PIECE_BYTES = 128 * 1024
FIRST_PIECE_ROWS = 256
MAX_PIECE_ROWS = 4096
#: After text that needed escaping, this many pieces are not tried without.
CAREFUL_PIECES = 32
MAX_KNOWN_DATES = 50_000
ENDLESS = 1 << 62

Parameters = tuple[str | None, ...]


class Field(NamedTuple):
    """A column to encode, and where its value stands in a row tuple. In a ``key`` field a value
    that the target cannot hold fails: replaced, it might name another row. In a secondary unique
    index it is replaced all the same, and two such rows that become alike are refused there."""

    position: int
    column: Column
    key: bool = False


class Encoder:
    """Encodes rows of ``width`` values, of which ``fields`` are sent.

    ``replaced`` counts the values that the target cannot hold, by column and reason: what is no
    date becomes NULL (``zero_date``), U+0000 is left out of text (``nul_byte``); both fail in a
    key.
    """

    def __init__(self, table: TableId, fields: Sequence[Field], width: int) -> None:
        self.replaced: dict[tuple[str, str], int] = {}
        self._table = table
        self._fields = tuple(fields)
        self._width = width
        self._nulls = repeat(NULL, ENDLESS)
        self._hexes = repeat(HEX, ENDLESS)
        kinds = {field.column.type.kind for field in fields}
        self._arrays = "array" in kinds
        self._plain = not (kinds & TEXTUAL or self._arrays)
        self._known_dates: set[str] = set()
        self._fast: Callable[[Sequence[Row]], str] = self._compile("fast")
        self._careful: Callable[[Sequence[Row]], str] = self._compile("careful")
        self._parameters: Callable[[Sequence[Row]], list[Parameters]] | None = None
        self._careful_pieces = 0
        self._piece_rows = FIRST_PIECE_ROWS

    def pieces(self, rows: Sequence[Row]) -> Iterator[bytes]:
        """COPY text of ``rows`` in pieces of about 128 KiB.

        Raises ``ApplyError`` for a value that cannot be sent and has no replacement.
        """
        start = 0
        while start < len(rows):
            part = rows[start : start + self._piece_rows]
            piece = self._encode(part)
            yield piece
            start += len(part)
            row_bytes = len(piece) / len(part)
            self._piece_rows = max(1, min(MAX_PIECE_ROWS, int(PIECE_BYTES / row_bytes)))

    def parameters(self, rows: Sequence[Row]) -> list[Parameters]:
        """The same values as text parameters of a statement, a tuple for each row."""
        if self._parameters is None:
            self._parameters = self._compile("parameters")
        return self._parameters(rows)

    def take_replaced(self) -> dict[tuple[str, str], int]:
        """What ``replaced`` has counted since the last call."""
        taken, self.replaced = self.replaced, {}
        return taken

    def _encode(self, rows: Sequence[Row]) -> bytes:
        try:
            return self._text(rows).encode()
        except UnicodeEncodeError as error:
            raise ApplyError(
                "a text value is not Unicode (it holds half of a surrogate pair)",
                hint="Set the column's charset in the configuration to what its bytes really are.",
                table=self._table,
            ) from error

    def _text(self, rows: Sequence[Row]) -> str:
        if self._plain:
            return self._fast(rows)
        if self._arrays or self._careful_pieces:
            self._careful_pieces = max(0, self._careful_pieces - 1)
            return self._careful(rows)
        counted = dict(self.replaced)
        nulls, hexes = length_hint(self._nulls), length_hint(self._hexes)
        text = self._fast(rows)
        own = nulls - length_hint(self._nulls) + 2 * (hexes - length_hint(self._hexes))
        if (
            text.count("\\") == own
            and text.count("\t") == len(rows) * (len(self._fields) - 1)
            and text.count("\n") == len(rows)
            and "\r" not in text
            and "\0" not in text
        ):
            return text
        self._careful_pieces = CAREFUL_PIECES
        self.replaced = counted
        return self._careful(rows)

    # What follows makes the generated functions.

    def _compile(self, form: str) -> Callable[..., Any]:
        names: dict[str, Any] = {
            "known": self._known_dates,
            "null": self._nulls.__next__,
            "hexed": self._hexes.__next__,
        }
        values = [self._value(field, form, names) for field in self._fields]
        used = {field.position for field in self._fields}
        unpacked = "".join(f"c{n}, " if n in used else "_, " for n in range(self._width))
        if form == "parameters":
            source = f"[({''.join(f'{value}, ' for value in values)}) for {unpacked}in rows]"
        else:
            row = "\\t".join("{" + value + "}" for value in values)
            source = f"''.join([f\"{row}\\n\" for {unpacked}in rows])"
        name = f"{form}_{self._table.name}" if self._table.name.isidentifier() else form
        return compile_function(name, f"def {name}(rows):\n    return {source}\n", names)

    def _value(self, field: Field, form: str, names: dict[str, Any]) -> str:
        """The expression of one value: the text of a column ``cN``, in one of the three forms."""
        value = f"c{field.position}"
        missing = "None" if form == "parameters" else "null()"
        expression = self._expression(field, value, form, names)
        # Text is asked in any case: a NULL where none is allowed must not arrive as 'None'.
        if field.column.nullable or field.column.type.kind in TEXTUAL:
            return f"{missing} if {value} is None else {expression}"
        return expression

    def _expression(self, field: Field, value: str, form: str, names: dict[str, Any]) -> str:
        kind = field.column.type.kind
        if kind in TEMPORAL:
            names[f"date_{value}"] = self._date_mender(field, form)
            day = value if kind == "date" else f"{value}[:10]"
            return f"{value} if {day} in known else date_{value}({value})"
        if kind in TEXTUAL:
            if form == "fast":
                return value
            names[f"text_{value}"] = self._text_cleaner(field, form)
            return f"text_{value}({value})"
        if kind in ("binary", "geometry"):
            return rf"'\\x' + {value}.hex()" if form == "parameters" else f"hexed() + {value}.hex()"
        if kind == "array":
            literal = _array_literal(field.column.type.element or Type("text"))
            names[f"array_{value}"] = (
                literal if form == "parameters" else lambda items: escape(literal(items))
            )
            return f"array_{value}({value})"
        if kind == "bit":
            names[f"bits_{value}"] = f"{{:0{field.column.type.length or 1}b}}".format
            return f"bits_{value}({value})"
        if kind == "boolean":
            return f"'t' if {value} else 'f'"
        if kind in ("float32", "float64"):
            return f"repr({value})"
        if form == "parameters":
            return f"str({value})"
        return value

    def _date_mender(self, field: Field, form: str) -> Callable[[str], str | None]:
        """For a value whose date is not known yet: the value if the date is one, else NULL."""
        column, known = field.column.name, self._known_dates
        missing = self._nulls.__next__ if form != "parameters" else lambda: None

        def mend(value: str) -> str | None:
            if is_date(value[:10]):
                if len(known) >= MAX_KNOWN_DATES:
                    known.clear()
                known.add(value[:10])
                return value
            if field.key:
                raise ApplyError(
                    f"column {column} is part of the key and holds a date that PostgreSQL has not",
                    hint=f"Correct such rows in the source (a date of zeros, or a day that no month"
                    f" has, in {column}), or leave the table out.",
                    table=self._table,
                )
            self._count(column, "zero_date")
            return missing()

        return mend

    def _text_cleaner(self, field: Field, form: str) -> Callable[[str], str]:
        column = field.column.name
        finish: Callable[[str], str] = str if form == "parameters" else escape

        def clean(value: str) -> str:
            if "\0" in value:
                if field.key:
                    raise ApplyError(
                        f"column {column} is part of the key and holds the character U+0000, which"
                        " PostgreSQL has not",
                        hint=f"Correct such rows in the source (take U+0000 out of {column}, or"
                        " make it a binary column), or leave the table out.",
                        table=self._table,
                    )
                self._count(column, "nul_byte")
                value = value.replace("\0", "")
            return finish(value)

        return clean

    def _count(self, column: str, reason: str) -> None:
        self.replaced[column, reason] = self.replaced.get((column, reason), 0) + 1


def escape(text: str) -> str:
    """A value of COPY's text format."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def is_date(text: str) -> bool:
    """Whether ``YYYY-MM-DD`` is a day of the calendar in the years 1 to 9999."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _array_literal(element: Type) -> Callable[[list[Any]], str]:
    """PostgreSQL manual, Arrays, "Array Value Input": every element quoted."""
    if element.kind == "array":
        inner = _array_literal(element.element or Type("text"))
        return lambda items: "{" + ",".join(map(inner, items)) + "}"
    texts: dict[str, Callable[[Any], str]] = {
        "binary": lambda item: "\\x" + item.hex(),
        "geometry": lambda item: "\\x" + item.hex(),
        "boolean": lambda item: "t" if item else "f",
        "float32": repr,
        "float64": repr,
        "bit": f"{{:0{element.length or 1}b}}".format,
    }
    text = texts.get(element.kind, str)

    def quoted(item: Any) -> str:
        if item is None:
            return "NULL"
        return '"' + text(item).replace("\\", "\\\\").replace('"', '\\"') + '"'

    return lambda items: "{" + ",".join(map(quoted, items)) + "}"
