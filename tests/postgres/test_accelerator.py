"""
The accelerator and the generated Python encode the same: equal pieces, counts and errors.

Both get the same rows: common ones, rows with values that the target cannot store, and objects that
are not rows. Both split rows into pieces at the same places, so the pieces are compared, too.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.change import Row
from engine.errors import ApplyError
from engine.schema import Column, Kind, TableId, Type
from engine.toolkit.accelerator import python_only
from engine.toolkit.policies import StoragePolicies
from sinks.postgres import accelerator
from sinks.postgres.copy import FIRST_PIECE_ROWS, Encoder, Field, escape

built = pytest.mark.skipif(
    not accelerator.AVAILABLE, reason="the accelerator is not built, or TAILRACE_ACCELERATOR=off"
)


# -- values ----------------------------------------------------------------------------------------

INTEGERS = st.one_of(
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.integers(-1000, 1000),
    st.sampled_from([0, -(1 << 63), (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
)
#: Long enough to have special characters at any place of a word of eight bytes, and after it.
TEXTS = st.one_of(
    st.text(st.sampled_from("ab\\\t\n\r\x01\x1f ~\x7fé日😀"), max_size=30),
    st.text(st.sampled_from("abcdefgh"), max_size=30),
)
DAYS = st.dates().map(str)
CLOCKS = st.times().map(str)
NOT_DATES = [
    *("0000-00-00", "2020-00-10", "1900-02-29", "0000-02-29", "2020-13-01", "2021-2-3", "", "x"),
    *("20200229", "2020-W01-1", "२०२०-02-29", "éééé-01-01", "2020-02-\uff129", "a123-01-01"),
]
#: Texts in place of a date: some the target can store, some not.
ANY_DAYS = st.one_of(
    st.sampled_from(NOT_DATES),
    st.builds("{:04}-{:02}-{:02}".format, *map(st.integers, (0, 0, 0), (9999, 13, 32))),
    st.builds("{:04}-02-29".format, st.integers(0, 9999)),
    st.text(st.sampled_from("0129-\t\0é"), max_size=12),
)
ANY_TEXTS = st.one_of(
    TEXTS,
    st.text(st.sampled_from("a\\\0\ud800\t"), max_size=12),
    st.lists(st.integers(0, sys.maxunicode).map(chr), max_size=3).map("".join),
)


def common(type: Type) -> st.SearchStrategy[Any]:
    """Values of the type as sources give them; the target can store all of them."""
    match type.kind:
        case "boolean":
            return st.booleans()
        case "float32" | "float64":
            return st.floats()
        case "bit":
            return st.integers(0, (1 << 64) - 1) | st.integers(0, 9)
        case "text" | "json" | "enum" | "set":
            return TEXTS
        case "date":
            return DAYS
        case "datetime" | "timestamp":
            return st.tuples(DAYS, CLOCKS).map(" ".join)
        case "time" | "interval":
            return CLOCKS
        case "decimal":
            return st.decimals(allow_nan=False, allow_infinity=False).map(str)
        case "uuid":
            return st.uuids().map(str)
        case "binary" | "geometry":
            return st.binary(max_size=20)
        case "array":
            return st.lists(st.none() | TEXTS, max_size=3)
    return INTEGERS


def possible(type: Type) -> st.SearchStrategy[Any]:
    """The same, and values that have to be replaced or refused."""
    match type.kind:
        case "text" | "json" | "enum" | "set":
            return ANY_TEXTS
        case "date" | "datetime" | "timestamp":
            ends = st.sampled_from(["", " 10:00:00", "\t", "\ud800"])
            return st.tuples(ANY_DAYS, ends).map("".join)
        case "array":
            return st.lists(st.none() | ANY_TEXTS, max_size=3)
    return common(type)


class Word(str):
    """Like the next classes: a subclass that formats or iterates as something else."""

    def __format__(self, form: str) -> str:
        return "a word"


class Number(int):
    def __format__(self, form: str) -> str:
        return "a number"


class Bytes(bytes):
    def hex(self, *_: Any) -> str:
        return "some bytes"


class Pair(tuple[Any, ...]):
    def __iter__(self) -> Iterator[Any]:
        return iter((2, "y"))


STRANGE = st.one_of(
    *(st.none(), st.booleans(), INTEGERS, st.floats(), ANY_TEXTS, st.binary(max_size=9)),
    st.integers(-(1 << 70), 1 << 70),
    st.lists(TEXTS, max_size=2),
    st.builds(Word, TEXTS),
    st.builds(Number, INTEGERS),
)

KNOWN = [Type(kind) for kind in get_args(Kind) if kind != "array"]
KNOWN += [Type("bit", length=length) for length in (1, 8, 63, 64)]
UNKNOWN = [Type("array", element=Type("text")), Type("bit", length=65)]


@st.composite
def fields(draw: st.DrawFn, types: list[Type]) -> tuple[Field, ...]:
    """Columns to send, in any order; a row may have more values."""
    chosen = draw(st.lists(st.sampled_from(types), min_size=1, max_size=6))
    positions = draw(st.permutations(range(len(chosen) + draw(st.integers(0, 2)))))
    return tuple(
        Field(position, Column(f"c{n}", type, "", draw(st.booleans())), draw(st.booleans()))
        for n, (position, type) in enumerate(zip(positions, chosen, strict=False))
    )


@st.composite
def rows_for(
    draw: st.DrawFn, fields: tuple[Field, ...], values: Callable[[Type], st.SearchStrategy[Any]]
) -> tuple[int, list[Row]]:
    """The width of rows, and rows of that width."""
    width = max(field.position for field in fields) + 1
    each = {field.position: values(field.column.type) for field in fields}
    for field in fields:
        if field.column.nullable or field.may_need_escape:
            each[field.position] |= st.none()
    row = st.tuples(*(each.get(n, st.just("not sent")) for n in range(width)))
    return width, draw(st.lists(row, max_size=6))


# -- the same results ------------------------------------------------------------------------------


def made(fields: tuple[Field, ...], width: int, rows: Any) -> tuple[list[bytes], str, Any]:
    """The pieces of rows up to an error, the error, and the counts of replaced values."""
    encoder = Encoder(TableId("s", "t"), fields, width)
    pieces: list[bytes] = []
    try:
        pieces.extend(encoder.pieces(rows))
    except Exception as error:  # noqa: BLE001 - any error must be the same
        hint = error.hint if isinstance(error, ApplyError) else ""
        return pieces, f"{type(error)} {error} {hint}", encoder.take_replaced()
    return pieces, "", encoder.take_replaced()


def check(fields: tuple[Field, ...], width: int, rows: Any) -> None:
    with python_only():
        python = made(fields, width, rows)
    assert made(fields, width, rows) == python


@built
@given(st.data())
def test_common_rows_are_encoded_the_same_and_by_the_accelerator(data: st.DataObject) -> None:
    columns = data.draw(fields(KNOWN))
    width, rows = data.draw(rows_for(columns, common))
    with python_only():
        pieces, error, _ = made(columns, width, rows)
    assert not error
    encode = accelerator.copy_accelerator(
        [(it.position, it.column, it.stored) for it in columns], width
    )
    assert encode is not None
    assert encode(rows, 0, len(rows)) == b"".join(pieces)
    for n in range(len(rows)):
        assert encode(rows, n, n + 1) == encode([rows[n]], 0, 1)
    check(columns, width, rows)


@built
@given(st.data())
def test_rows_that_the_target_cannot_store_are_handled_the_same(data: st.DataObject) -> None:
    columns = data.draw(fields(KNOWN + UNKNOWN))
    check(columns, *data.draw(rows_for(columns, possible)))


@built
@given(st.data())
def test_objects_that_are_not_rows_fail_the_same(data: st.DataObject) -> None:
    columns = data.draw(fields(KNOWN + UNKNOWN))
    width, rows = data.draw(rows_for(columns, lambda _: STRANGE))
    check(columns, width, rows)
    check(columns, width, tuple(rows))
    other = data.draw(st.none() | TEXTS | st.lists(STRANGE) | st.lists(STRANGE).map(tuple))
    check(columns, width, [*rows, other])


# -- refusals --------------------------------------------------------------------------------------

TEXT = Column("t", Type("text"), "text")
NUMBER = Column("n", Type("int32"), "int", nullable=False)
DAY = Column("d", Type("date"), "date")


@built
@pytest.mark.parametrize(
    ("type", "value"),
    [
        *((Type("date"), day) for day in ("0000-00-00", "2021-02-29", "1900-02-29", "2020-04-31")),
        *((Type("date"), day) for day in ("2020-02-30", "2020-01-00", "2020x01-01", "2020-01x01")),
        *(
            (Type("datetime"), day)
            for day in ("0000-01-01 00:00:00", "2021-1-01", "é021-01-01", "")
        ),
        *((Type("text"), text) for text in ("\0", "a" * 20 + "\0", "\ud800", 1, Word("x"))),
        *((Type("int32"), it) for it in (True, 1.0, 1 << 64, -(1 << 63) - 1, Number(1))),
        *((Type("decimal"), it) for it in ("\ud800", 1.5, b"1", Word("1"))),
        *((Type("float64"), it) for it in (1, "1.0", None)),
        *((Type("boolean"), it) for it in (1, 0, "t")),
        *((Type("bit", length=8), it) for it in (-1, True, 1 << 64, "1")),
        *((Type("binary"), it) for it in (bytearray(b"x"), "x", Bytes(b"x"))),
    ],
)
def test_an_uncommon_value_is_refused_and_encoded_by_python(type: Type, value: Any) -> None:
    column = Column("c", type, "", nullable=False)
    encode = accelerator.copy_accelerator([(0, column, type)], 1)
    assert encode is not None
    assert encode([(value,)], 0, 1) is None
    for key in (False, True):
        check((Field(0, column, key),), 1, [(value,)])


@built
@pytest.mark.parametrize("special", "\\\t\n\r")
def test_a_special_character_is_found_at_any_place(special: str) -> None:
    texts = ["é" * n + special + "~" * m for n in range(18) for m in range(18)]
    texts += [text.replace("é", " ") for text in texts]
    encode = accelerator.copy_accelerator([(0, TEXT, TEXT.type)], 1)
    assert encode is not None
    rows: list[Row] = [(text,) for text in texts]
    assert encode(rows, 0, len(rows)) == "".join(escape(text) + "\n" for text in texts).encode()


@built
@pytest.mark.parametrize("day", ["2020-02-29", "2000-02-29", "0001-01-01", "9999-12-31"])
def test_rare_dates_are_not_refused(day: str) -> None:
    encode = accelerator.copy_accelerator([(0, DAY, DAY.type)], 1)
    assert encode is not None
    assert encode([(day,)], 0, 1) == day.encode() + b"\n"


@built
@pytest.mark.parametrize("row", [(), (1,), (1, "x", 2), [1, "x"], None, "1x", Pair((1, "x"))])
def test_an_object_that_is_not_a_row_of_the_width_is_refused(row: Any) -> None:
    encode = accelerator.copy_accelerator([(0, NUMBER, NUMBER.type), (1, TEXT, TEXT.type)], 2)
    assert encode is not None
    assert encode([(1, "x"), row], 0, 1) == b"1\tx\n"
    assert encode([(1, "x"), row], 0, 2) is None
    assert encode(((1, "x"),), 0, 1) is None
    check((Field(0, NUMBER), Field(1, TEXT)), 2, [(1, "x"), row])


@built
def test_only_the_piece_with_a_refused_value_is_encoded_by_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[Row] = [(n, "x" * 400, "2020-01-01") for n in range(3000)]
    rows[FIRST_PIECE_ROWS + 1] = (1, "x\0", "2020-01-01")
    rows[-1] = (1, "y", "0000-00-00")
    columns = (Field(0, NUMBER), Field(1, TEXT), Field(2, DAY))
    encoded: list[int] = []
    by_python = Encoder._encode

    def encode(self: Encoder, rows: list[Row]) -> bytes:
        encoded.append(len(rows))
        return by_python(self, rows)

    monkeypatch.setattr(Encoder, "_encode", encode)
    pieces, error, replaced = made(columns, 3, rows)
    assert (len(encoded), error) == (2, "")
    assert len(pieces) > len(encoded)
    assert replaced == {("t", "nul_byte"): 1, ("d", "zero_date"): 1}
    check(columns, 3, rows)


@built
@given(st.data())
def test_narrowed_columns_are_encoded_the_same(data: st.DataObject) -> None:
    policies = StoragePolicies(
        tinyint1="boolean",
        unsigned_bigint="bigint",
        out_of_range=data.draw(st.sampled_from(("error", "null", "clamp"))),
    )
    columns = (
        Field(
            0, Column("f", Type("int8"), "tinyint(1)", data.draw(st.booleans())), False, policies
        ),
        Field(1, Column("u", Type("uint64"), "bigint unsigned"), False, policies),
    )
    flags = st.integers(-2, 2) | st.none()
    numbers = st.sampled_from((0, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, None))
    check(columns, 2, data.draw(st.lists(st.tuples(flags, numbers), max_size=4)))


@built
@pytest.mark.parametrize("type", UNKNOWN, ids=str)
def test_columns_of_unknown_types_are_encoded_by_python(type: Type) -> None:
    columns = [(0, NUMBER, NUMBER.type), (1, Column("c", type, ""), type)]
    assert accelerator.copy_accelerator(columns, 2) is None


@built
def test_texts_do_not_cache_their_utf_8() -> None:
    rows = [(f"é{n}" * 50,) for n in range(100)]
    before = sum(sys.getsizeof(text) for (text,) in rows)
    pieces, _, _ = made((Field(0, TEXT),), 1, rows)
    kept = sum(sys.getsizeof(text) for (text,) in rows) - before
    assert kept < 2 * len(b"".join(pieces)) / len(rows)


# -- programs --------------------------------------------------------------------------------------


step = struct.Struct("=BBHI").pack


@built
@pytest.mark.parametrize(
    "program",
    [
        *(b"x", bytes(9), step(9, 0, 0, 0), step(0, 2, 0, 0), step(5, 0, 65, 0)),
        *(step(0, 0, 0, 1), step(0, 0, 0, (1 << 32) - 1), bytes(8) + step(1, 0, 0, 1)),
    ],
)
def test_invalid_programs_are_refused(program: bytes) -> None:
    from sinks.postgres._accelerator import encode_rows

    with pytest.raises(ValueError, match="invalid program"):
        encode_rows(program, 1, [(1,)], 0, 1)
    with pytest.raises(ValueError, match="invalid program"):
        encode_rows(bytes(8), -1, [(1,)], 0, 1)


@built
@given(
    st.binary(max_size=40), st.integers(-1, 5), st.lists(st.tuples(STRANGE, STRANGE), max_size=3)
)
def test_any_program_either_works_or_is_refused(
    program: bytes, width: int, rows: list[Row]
) -> None:
    from sinks.postgres._accelerator import encode_rows

    with suppress(ValueError):
        encode_rows(program, width, rows, 0, len(rows))


@built
@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (1, 0), (0, 2), (2, 2)])
def test_rows_out_of_range_are_refused(start: int, stop: int) -> None:
    encode = accelerator.copy_accelerator([(0, NUMBER, NUMBER.type)], 1)
    assert encode is not None
    with pytest.raises(ValueError, match="rows out of range"):
        encode([(1,)], start, stop)
