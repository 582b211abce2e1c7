r"""
Row tuples become COPY text, by an encoder generated for each table version.

The generated function makes each row with one f-string in a list comprehension, without a branch
that the table does not need. For a table ``notes`` with the columns ``id int NOT NULL``,
``day date NOT NULL`` and ``body text`` it is::

    def copy_notes(rows, column2):
        return ''.join([
            f"{c0}\t{c1 if c1[4:10] in days and c1 >= '0001' else date_c1(c1)}\t{c2}\n"
            for (c0, c1, _, ), c2, in zip(rows, column2)
        ])

Columns whose values may need escaping are prepared first, as lists like ``column2``, for some
hundred rows at a time. The values of a column are joined into one text, which is searched for
special characters at the speed of ``memchr``, and escaped as one text if it has any. Of the other
types only dates are checked: ``date_c1`` replaces a date that PostgreSQL cannot store. The policies
of a column (``engine.toolkit.policies``) are compiled into these functions.

Where the accelerator is built (``accelerator.py``), it encodes the rows first. The generated Python
encodes those that the accelerator refuses. It defines the right result, and only it replaces
values, counts them and raises errors.

Format: PostgreSQL manual, COPY, "Text Format".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from operator import itemgetter
from typing import Any, Literal, NamedTuple, cast

from engine.change import Row
from engine.databases.postgres.stored import (
    DEFAULT,
    EPOCH,
    INFINITY,
    KEY_NUL,
    LARGEST_BIGINT,
    NUL,
    is_narrowed,
    stored_type,
)
from engine.databases.postgres.types import TEMPORAL, TEXTUAL, type_name
from engine.errors import ApplyError
from engine.schema import Column, TableId, Type
from engine.toolkit.codegen import compile_function
from engine.toolkit.policies import StoragePolicies
from sinks.postgres.accelerator import copy_accelerator
from sinks.postgres.large_rows import large_pieces, text_size

__all__ = ["Encoder", "Field", "escape"]

NULL = r"\N"
HEX = r"\\x"
#: The characters that are escaped. U+0000 cannot be sent, so it can separate values.
SPECIAL = "\\\t\n\r"
KEY_NUL_BYTES = KEY_NUL.encode()
#: The size to aim at: large enough to be sent at full speed, small enough to stay in the
#: processor's cache and not to block the event loop.
PIECE_BYTES = 128 * 1024
FIRST_PIECE_ROWS = 256
#: A value of this size is written slice by slice.
LARGE_BYTES = 4 * 1024 * 1024
#: PostgreSQL does not receive a larger row.
LARGEST_ROW_BYTES = (1 << 30) - 8
MAX_PIECE_ROWS = 4096
#: ``-MM-DD`` of the days that exist in every year.
DAYS = frozenset(
    f"-{month:02}-{day:02}"
    for month, days in enumerate((31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), 1)
    for day in range(1, days + 1)
)

Parameters = tuple[str | None, ...]
Form = Literal["copy", "parameters"]


class Field(NamedTuple):
    """A column to encode, and the position of its value in a row tuple.

    A value that the target cannot store gets a replacement of its own in a ``key`` field, which no
    other row has, or is an error. In a secondary unique index it is replaced as elsewhere; if two
    rows become equal by it, the index refuses the second.
    """

    position: int
    column: Column
    key: bool = False
    policies: StoragePolicies = DEFAULT

    @property
    def may_need_escape(self) -> bool:
        """Whether a value may hold a character that COPY text escapes."""
        return self.column.type.kind in TEXTUAL or self.column.type.kind == "array"

    @property
    def may_hold_substitute(self) -> bool:
        """Whether a value must not hold ``KEY_NUL``, because it stands for U+0000."""
        return self.key and self.column.type.kind in TEXTUAL and self.policies.nul_byte != "error"

    @property
    def stored(self) -> Type:
        """The neutral type as which the column is stored."""
        return stored_type(self.column, self.policies)


class Encoder:
    """Encodes rows of ``width`` values, of which ``fields`` are sent.

    ``replaced`` counts the values that the target cannot store, by column and the policy that
    replaced them.
    """

    def __init__(self, table: TableId, fields: Sequence[Field], width: int) -> None:
        self.replaced: dict[tuple[str, str], int] = {}
        self._table = table
        self._fields = tuple(fields)
        self._width = width
        self._accelerator = copy_accelerator(
            [(it.position, it.column, it.stored) for it in self._fields], width
        )
        self._columns = [
            self._text_column(field) for field in self._fields if field.may_need_escape
        ]
        self._has_text_key = any(it.may_hold_substitute for it in self._fields)
        self._lines: Callable[..., str] | None = None
        self._parameters: Callable[[Sequence[Row]], list[Parameters]] | None = None
        self._piece_rows = FIRST_PIECE_ROWS

    def pieces(self, rows: Sequence[Row], *, large: bool = False) -> Iterator[bytes]:
        """COPY text of ``rows`` in pieces of about 128 KiB. ``large``: values may be larger than
        LARGE_BYTES, so a row may be several pieces.

        Raises ``ApplyError`` for a value that cannot be sent or replaced.
        """
        start = 0
        for index, row in enumerate(rows) if large else ():
            if any(isinstance(each, str | bytes) and len(each) > LARGE_BYTES for each in row):
                yield from self._pieces(rows[start:index])
                yield from self._large_pieces(row)
                start = index + 1
        yield from self._pieces(rows[start:] if start else rows)

    def _large_pieces(self, row: Row) -> Iterator[bytes]:
        if text_size(row) > LARGEST_ROW_BYTES:
            error = ApplyError(
                "a row is larger than PostgreSQL can receive, which is 1 GiB as text (512 MiB of"
                " binary values)",
                hint='Make the value smaller in the source, set drop = ["…"] in [mapping."TABLE"],'
                ' or add "TABLE" to exclude in [source].',
                table=self._table,
            )
            error.of_rows = False  # a dead letter cannot hold it either
            raise error
        texts = {it.position: self._slice_text(it) for it in self._fields if it.may_need_escape}
        columns = {
            it.position: texts.get(it.position)
            for it in self._fields
            if it.column.type.kind in (*TEXTUAL, "binary", "geometry")
        }
        yield from large_pieces(row, columns, lambda marked: self._encode([marked]), LARGE_BYTES)

    def _slice_text(self, field: Field) -> Callable[[str], bytes]:
        """A function from a part of a text to its COPY text."""
        clean = self._cleaner(field)

        def text(part: str) -> bytes:
            try:
                return escape(clean(part)).encode()
            except UnicodeEncodeError as error:
                raise self._not_unicode() from error

        return text

    def _pieces(self, rows: Sequence[Row]) -> Iterator[bytes]:
        start = 0
        while start < len(rows):
            stop = min(start + self._piece_rows, len(rows))
            piece = self._accelerator(rows, start, stop) if self._accelerator is not None else None
            if piece is None or (self._has_text_key and KEY_NUL_BYTES in piece):
                piece = self._encode(rows[start:stop])
            yield piece
            row_bytes = len(piece) / (stop - start)
            start = stop
            self._piece_rows = max(1, min(MAX_PIECE_ROWS, int(PIECE_BYTES / row_bytes)))

    def parameters(self, rows: Sequence[Row]) -> list[Parameters]:
        """The same values as text parameters of a statement, one tuple for each row."""
        if self._parameters is None:
            self._parameters = self._compile_parameters()
        return self._parameters(rows)

    def take_replaced(self) -> dict[tuple[str, str], int]:
        """The counts of ``replaced`` since the last call."""
        taken, self.replaced = self.replaced, {}
        return taken

    def _encode(self, rows: Sequence[Row]) -> bytes:
        if self._lines is None:
            self._lines = self._compile_lines()
        try:
            return self._lines(rows, *[column(rows) for column in self._columns]).encode()
        except UnicodeEncodeError as error:
            raise self._not_unicode() from error

    def _not_unicode(self) -> ApplyError:
        return ApplyError(
            "a text value is not Unicode (it holds half of a surrogate pair)",
            hint='"TABLE.COLUMN" = { charset = "…" } in [source.values.columns] names the encoding'
            " of its bytes.",
            table=self._table,
        )

    # The generated functions, and the functions that they call

    def _compile_lines(self) -> Callable[..., str]:
        """A function of the rows, and of a list for each column that may need escaping."""
        names: dict[str, Any] = {"null": NULL, "hexed": HEX, "days": DAYS}
        values = [
            f"c{field.position}" if field.may_need_escape else self._value(field, "copy", names)
            for field in self._fields
        ]
        line = "\\t".join("{" + value + "}" for value in values) + "\\n"
        row = self._unpacked([field for field in self._fields if not field.may_need_escape])
        columns = [field.position for field in self._fields if field.may_need_escape]
        targets = "".join(f"c{n}, " for n in columns)
        lists = "".join(f", column{n}" for n in columns)
        loop = f"for ({row}), {targets}in zip(rows{lists})"
        lines = f"''.join([\n        f\"{line}\"\n        {loop}\n    ])"
        return self._compile("copy", f"rows{lists}", lines, names)

    def _compile_parameters(self) -> Callable[[Sequence[Row]], list[Parameters]]:
        names: dict[str, Any] = {"null": None, "hexed": r"\x", "days": DAYS}
        values = "".join(f"{self._value(it, 'parameters', names)}, " for it in self._fields)
        tuples = f"[({values}) for {self._unpacked(self._fields)}in rows]"
        return self._compile("parameters", "rows", tuples, names)

    def _compile(
        self, form: Form, arguments: str, result: str, names: dict[str, Any]
    ) -> Callable[..., Any]:
        name = f"{form}_{self._table.name}" if self._table.name.isidentifier() else form
        return compile_function(name, f"def {name}({arguments}):\n    return {result}\n", names)

    def _unpacked(self, fields: Sequence[Field]) -> str:
        """The target of an assignment that unpacks a row and names the values of ``fields``."""
        used = {field.position for field in fields}
        return "".join(f"c{n}, " if n in used else "_, " for n in range(self._width))

    def _value(self, field: Field, form: Form, names: dict[str, Any]) -> str:
        """The expression for the text of one value, ``cN``."""
        value = f"c{field.position}"
        expression = self._expression(field, value, form, names)
        if field.column.nullable or field.may_need_escape:
            return f"null if {value} is None else {expression}"
        return expression

    def _expression(self, field: Field, value: str, form: Form, names: dict[str, Any]) -> str:
        kind = field.column.type.kind
        if kind in TEMPORAL and field.stored.kind == "text":
            return value
        if kind in TEMPORAL:
            names[f"date_{value}"] = self._date_or(names["null"], field)
            certain = f"{value}[4:10] in days and {value} >= '0001'"
            return f"{value} if {certain} else date_{value}({value})"
        if is_narrowed(field.column, field.policies):
            return self._narrowed(field, value, names)
        if field.may_need_escape:
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

    def _narrowed(self, field: Field, value: str, names: dict[str, Any]) -> str:
        """The expression for a number whose stored type does not hold every value."""
        names[f"narrow_{value}"] = self._out_of_range(names["null"], field)
        if field.stored.kind == "boolean":
            return f"'f' if {value} == 0 else 't' if {value} == 1 else narrow_{value}({value})"
        return f"str({value}) if {value} <= {LARGEST_BIGINT} else narrow_{value}({value})"

    def _out_of_range(self, null: str | None, field: Field) -> Callable[[int], str | None]:
        """A function that returns what stands for a number that the stored type does not hold."""
        column, policy = field.column.name, field.policies.out_of_range
        highest = "t" if field.stored.kind == "boolean" else str(LARGEST_BIGINT)

        def replace(value: int) -> str | None:
            if policy == "error" or field.key:
                raise ApplyError(
                    f"column {column} holds a number that the type {type_name(field.stored)} does"
                    " not hold",
                    hint="Correct the rows in the source, or store the column as the wider type"
                    " (docs/types.md); unless it is part of the key,"
                    f' "TABLE.{column}" = {{ out_of_range = "null" }} in [sink.values.columns]'
                    " stores NULL.",
                    table=self._table,
                )
            self._count(column, "out_of_range")
            return highest if policy == "clamp" else null

        return replace

    def _date_or(self, null: str | None, field: Field) -> Callable[[str], str | None]:
        """A function that returns a value that begins with a date as it is, and what stands for any
        other value."""
        column, policy = field.column.name, field.policies.zero_date
        epoch = EPOCH if field.column.type.kind == "date" else f"{EPOCH} 00:00:00"
        keep_all = f'"TABLE.{column}" = {{ zero_date = "text" }} in [sink.values.columns]'

        def date_or_other(value: str) -> str | None:
            if is_date(value[:10]):
                return value
            if policy == "error" or (field.key and value.strip("0-: .")):
                raise ApplyError(
                    f"column {column} {'is part of the key and ' if field.key else ''}holds a date"
                    " that PostgreSQL cannot store",
                    hint=f"Correct the rows in the source that have a date that does not exist in"
                    f" {column}; {keep_all} keeps all dates; `tailrace backfill CONFIG TABLE` reads"
                    " the table again",
                    table=self._table,
                )
            self._count(column, "zero_date")
            if field.key or policy == INFINITY:
                return INFINITY
            return epoch if policy == "epoch" else null

        return date_or_other

    def _text_column(self, field: Field) -> Callable[[Sequence[Row]], list[str]]:
        """A function from rows to the COPY text of the values of one column that may need
        escaping."""
        take, clean = itemgetter(field.position), self._cleaner(field)
        if field.column.type.kind == "array":
            literal = _array_literal(field.column.type.element or Type("text"))
            return lambda rows: _copy_texts(
                [None if (items := take(row)) is None else literal(items) for row in rows], clean
            )
        doubtful = "\0" + KEY_NUL if field.may_hold_substitute else "\0"
        return lambda rows: _copy_texts(list(map(take, rows)), clean, doubtful)

    def _text(self, field: Field) -> Callable[[Any], str]:
        """A function from a value that may need escaping to its text as PostgreSQL reads it."""
        clean = self._cleaner(field)
        if field.column.type.kind == "array":
            literal = _array_literal(field.column.type.element or Type("text"))
            return lambda items: clean(literal(items))
        return clean

    def _cleaner(self, field: Field) -> Callable[[str], str]:
        """A function that removes U+0000 from a text, or replaces it."""
        column, policy = field.column.name, field.policies.nul_byte
        other = KEY_NUL if field.key else NUL if policy == "replace" else ""
        unique = field.may_hold_substitute

        def clean(value: str) -> str:
            if unique and KEY_NUL in value:
                raise ApplyError(
                    f"column {column} is part of the key and holds the character U+F0000, which"
                    " stands for U+0000 in keys",
                    hint=f'"TABLE.{column}" = {{ nul_byte = "error" }} in [sink.values.columns], or'
                    " change the character in the source; then `tailrace backfill CONFIG TABLE`"
                    " reads the table again",
                    table=self._table,
                )
            if "\0" in value:
                if policy == "error":
                    raise ApplyError(
                        f"column {column} holds the character U+0000, which PostgreSQL cannot"
                        " store",
                        hint=f"Remove U+0000 from {column} in the source, change it to a binary"
                        f' column there, or "TABLE.{column}" = {{ nul_byte = "strip" }} in'
                        " [sink.values.columns].",
                        table=self._table,
                    )
                self._count(column, "nul_byte")
                value = value.replace("\0", other)
            return value

        return clean

    def _count(self, column: str, reason: str) -> None:
        self.replaced[column, reason] = self.replaced.get((column, reason), 0) + 1


def _copy_texts(
    values: list[str | None], clean: Callable[[str], str], doubtful: str = "\0"
) -> list[str]:
    """The values of a column in COPY's text format. ``clean`` takes U+0000 out of one value, and is
    called if there is one of the characters ``doubtful``."""
    texts = cast("list[str]", values)
    try:
        whole = "".join(texts)
    except TypeError:  # there are NULLs
        texts = [value for value in values if value is not None]
        whole = "".join(texts)
    if any(character in whole for character in doubtful):
        texts = list(map(clean, texts))
    if any(character in whole for character in SPECIAL):
        texts = escape("\0".join(texts)).split("\0")
    if len(texts) == len(values):
        return texts
    remaining = iter(texts)
    return [NULL if value is None else next(remaining) for value in values]


def escape(text: str) -> str:
    """A text as a value of COPY's text format."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def is_date(text: str) -> bool:
    """Whether ``YYYY-MM-DD`` is a date of the years 1 to 9999."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _array_literal(element: Type) -> Callable[[list[Any]], str]:
    """A function from a list to an array literal with every element quoted (PostgreSQL manual,
    Arrays, "Array Value Input")."""
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
