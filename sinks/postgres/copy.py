"""
Row tuples become COPY text: an encoder generated for each table version.

The idea: one f-string makes a row, in a list comprehension, with no branch that the table does not
need. Columns that may hold any character are taken out of a piece of some hundred rows before,
each as a whole: joined, it is searched for what needs escaping at the speed of ``memchr``, and
escaped as one text if there is something. Of other types only dates are looked at.

Where the compiled kernel is there (``kernel.py``) it goes first. What it refuses the generated
Python encodes again, which is the definition of what is right, and replaces, counts and raises.

Format: PostgreSQL manual, COPY, "Text Format".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from operator import itemgetter
from typing import Any, Literal, NamedTuple, cast

from engine.change import Row
from engine.databases.postgres.types import TEMPORAL, TEXTUAL
from engine.errors import ApplyError
from engine.schema import Column, TableId, Type
from engine.toolkit.codegen import compile_function
from sinks.postgres.accelerator import copy_accelerator

__all__ = ["Encoder", "Field", "escape"]

NULL = r"\N"
HEX = r"\\x"
#: What text is searched for; U+0000 cannot be sent, so it can part values.
SPECIAL = "\\\t\n\r\0"
#: Aimed at: large enough to be sent at full speed, small enough to stay in the processor's cache
#: and to leave the event loop free.
PIECE_BYTES = 128 * 1024
FIRST_PIECE_ROWS = 256
MAX_PIECE_ROWS = 4096
#: ``-MM-DD`` of the days that every year has.
DAYS = frozenset(
    f"-{month:02}-{day:02}"
    for month, days in enumerate((31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), 1)
    for day in range(1, days + 1)
)

Parameters = tuple[str | None, ...]
Form = Literal["copy", "parameters"]


class Field(NamedTuple):
    """A column to encode, and where its value stands in a row tuple. In a ``key`` field a value
    that the target cannot hold fails: replaced, it might name another row. In a secondary unique
    index it is replaced all the same, and two such rows that become alike are refused there."""

    position: int
    column: Column
    key: bool = False

    @property
    def open(self) -> bool:
        """Whether the values may hold any character."""
        return self.column.type.kind in TEXTUAL or self.column.type.kind == "array"


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
        self._accelerator = copy_accelerator(
            [(it.position, it.column) for it in self._fields], width
        )
        self._columns = [self._open_column(field) for field in self._fields if field.open]
        self._lines: Callable[..., str] | None = None
        self._parameters: Callable[[Sequence[Row]], list[Parameters]] | None = None
        self._piece_rows = FIRST_PIECE_ROWS

    def pieces(self, rows: Sequence[Row]) -> Iterator[bytes]:
        """COPY text of ``rows`` in pieces of about 128 KiB.

        Raises ``ApplyError`` for a value that cannot be sent and has no replacement.
        """
        start = 0
        while start < len(rows):
            stop = min(start + self._piece_rows, len(rows))
            piece = self._accelerator(rows, start, stop) if self._accelerator is not None else None
            if piece is None:
                piece = self._encode(rows[start:stop])
            yield piece
            row_bytes = len(piece) / (stop - start)
            start = stop
            self._piece_rows = max(1, min(MAX_PIECE_ROWS, int(PIECE_BYTES / row_bytes)))

    def parameters(self, rows: Sequence[Row]) -> list[Parameters]:
        """The same values as text parameters of a statement, a tuple for each row."""
        if self._parameters is None:
            self._parameters = self._compile_parameters()
        return self._parameters(rows)

    def take_replaced(self) -> dict[tuple[str, str], int]:
        """What ``replaced`` has counted since the last call."""
        taken, self.replaced = self.replaced, {}
        return taken

    def _encode(self, rows: Sequence[Row]) -> bytes:
        if self._lines is None:
            self._lines = self._compile_lines()
        try:
            return self._lines(rows, *[column(rows) for column in self._columns]).encode()
        except UnicodeEncodeError as error:
            raise ApplyError(
                "a text value is not Unicode (it holds half of a surrogate pair)",
                hint="Set the column's charset in the configuration to what its bytes really are.",
                table=self._table,
            ) from error

    # What follows makes the generated functions, and what they call.

    def _compile_lines(self) -> Callable[..., str]:
        """From rows, and a list for each open column, to lines."""
        names: dict[str, Any] = {"null": NULL, "hexed": HEX, "days": DAYS}
        values = [
            f"c{field.position}" if field.open else self._value(field, "copy", names)
            for field in self._fields
        ]
        line = "\\t".join("{" + value + "}" for value in values)
        row = self._unpacked([field for field in self._fields if not field.open])
        columns = [field.position for field in self._fields if field.open]
        targets = "".join(f"c{n}, " for n in columns)
        lists = "".join(f", column{n}" for n in columns)
        made = f'[f"{line}\\n" for ({row}), {targets}in zip(rows{lists})]'
        return self._compile("copy", f"rows{lists}", f"''.join({made})", names)

    def _compile_parameters(self) -> Callable[[Sequence[Row]], list[Parameters]]:
        names: dict[str, Any] = {"null": None, "hexed": r"\x", "days": DAYS}
        values = "".join(f"{self._value(it, 'parameters', names)}, " for it in self._fields)
        made = f"[({values}) for {self._unpacked(self._fields)}in rows]"
        return self._compile("parameters", "rows", made, names)

    def _compile(
        self, form: Form, arguments: str, made: str, names: dict[str, Any]
    ) -> Callable[..., Any]:
        name = f"{form}_{self._table.name}" if self._table.name.isidentifier() else form
        return compile_function(name, f"def {name}({arguments}):\n    return {made}\n", names)

    def _unpacked(self, fields: Sequence[Field]) -> str:
        """A row as the target of an assignment that names the values of ``fields``."""
        used = {field.position for field in fields}
        return "".join(f"c{n}, " if n in used else "_, " for n in range(self._width))

    def _value(self, field: Field, form: Form, names: dict[str, Any]) -> str:
        """The expression of one value: the text of a column ``cN``."""
        value = f"c{field.position}"
        expression = self._expression(field, value, form, names)
        if field.column.nullable or field.open:
            return f"null if {value} is None else {expression}"
        return expression

    def _expression(self, field: Field, value: str, form: Form, names: dict[str, Any]) -> str:
        kind = field.column.type.kind
        if kind in TEMPORAL:
            names[f"date_{value}"] = self._date_mender(field, names["null"])
            certain = f"{value}[4:10] in days and {value} >= '0001'"
            return f"{value} if {certain} else date_{value}({value})"
        if field.open:
            names[f"text_{value}"] = self._text(field)
            return f"text_{value}({value})"
        if kind in ("binary", "geometry"):
            return f"hexed + {value}.hex()"
        if kind == "bit":
            return f"f'{{{value}:0{field.column.type.length or 1}b}}'"
        if kind == "boolean":
            return f"'t' if {value} else 'f'"
        if kind in ("float32", "float64"):
            return f"repr({value})"
        return f"str({value})" if form == "parameters" else value

    def _date_mender(self, field: Field, null: str | None) -> Callable[[str], str | None]:
        """For a value that may begin with what is no date: itself, or ``null``."""
        column = field.column.name

        def mend(value: str) -> str | None:
            if is_date(value[:10]):
                return value
            if field.key:
                raise ApplyError(
                    f"column {column} is part of the key and holds a date that PostgreSQL has not",
                    hint=f"Correct such rows in the source (a date of zeros, or a day that no month"
                    f" has, in {column}), or leave the table out.",
                    table=self._table,
                )
            self._count(column, "zero_date")
            return null

        return mend

    def _open_column(self, field: Field) -> Callable[[Sequence[Row]], list[str]]:
        """From rows to the COPY text of one column's values."""
        take, clean = itemgetter(field.position), self._cleaner(field)
        if field.column.type.kind == "array":
            literal = _array_literal(field.column.type.element or Type("text"))
            return lambda rows: _copy_texts(
                [None if (items := take(row)) is None else literal(items) for row in rows], clean
            )
        return lambda rows: _copy_texts(list(map(take, rows)), clean)

    def _text(self, field: Field) -> Callable[[Any], str]:
        """For a value of an open column: its text as PostgreSQL reads it."""
        clean = self._cleaner(field)
        if field.column.type.kind == "array":
            literal = _array_literal(field.column.type.element or Type("text"))
            return lambda items: clean(literal(items))
        return clean

    def _cleaner(self, field: Field) -> Callable[[str], str]:
        """For a text: itself, without U+0000."""
        column = field.column.name

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
            return value

        return clean

    def _count(self, column: str, reason: str) -> None:
        self.replaced[column, reason] = self.replaced.get((column, reason), 0) + 1


def _copy_texts(values: list[str | None], clean: Callable[[str], str]) -> list[str]:
    """The values of a column in COPY's text format; ``clean`` takes U+0000 out of one."""
    texts = cast("list[str]", values)
    try:
        whole = "".join(texts)
    except TypeError:  # there are NULLs
        texts = [value for value in values if value is not None]
        whole = "".join(texts)
    if any(character in whole for character in SPECIAL):
        if "\0" in whole:
            texts = list(map(clean, texts))
        texts = escape("\0".join(texts)).split("\0")
    if len(texts) == len(values):
        return texts
    following = iter(texts)
    return [NULL if value is None else next(following) for value in values]


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
