"""
Values of every neutral type reach PostgreSQL unchanged, by COPY and as parameters.
"""

from __future__ import annotations

import textwrap
import time
from typing import Any

import pytest
from msgspec.structs import replace

from engine.change import Rows
from engine.databases.postgres.stored import KEY_NUL
from engine.errors import ApplyError
from engine.schema import Column, Table, TableId, Type
from engine.toolkit.policies import StoragePolicies
from sinks.postgres import copy
from sinks.postgres.copy import Encoder, Field
from sinks.postgres.session import LEAST_SINGLE_ROWS
from tests.conftest import AnyServer
from tests.support.targets import Fresh, Target, insert, opened

pytestmark = pytest.mark.usefixtures("by_each_codec")

ID = Column("id", Type("int32"), "int", nullable=False)

#: A type, its values in row tuples, and their text in PostgreSQL.
Values = tuple[Type, list[Any], list[str]]

VALUES: list[Values] = [
    (Type("boolean"), [True, False], ["true", "false"]),
    (Type("int8"), [-128, 127], ["-128", "127"]),
    (Type("uint8"), [255], ["255"]),
    (Type("int16"), [-32768], ["-32768"]),
    (Type("uint16"), [65535], ["65535"]),
    (Type("int24"), [-8388608], ["-8388608"]),
    (Type("uint24"), [16777215], ["16777215"]),
    (Type("int32"), [-2147483648], ["-2147483648"]),
    (Type("uint32"), [4294967295], ["4294967295"]),
    (Type("int64"), [-(1 << 63)], [str(-(1 << 63))]),
    (Type("uint64"), [(1 << 64) - 1], [str((1 << 64) - 1)]),
    (Type("decimal", precision=12, scale=2), ["-12.50", "0.00"], ["-12.50", "0.00"]),
    (
        Type("decimal", precision=65, scale=30),
        ["1" * 35 + "." + "9" * 30],
        ["1" * 35 + "." + "9" * 30],
    ),
    (Type("float32"), [0.10000000149011612, -0.0, 1e-38], ["0.1", "-0", "1e-38"]),
    (Type("float64"), [0.1, 1.7976931348623157e308], ["0.1", "1.7976931348623157e+308"]),
    (
        Type("text", length=30),
        ["", "\\N", "tab\there", "a\nb\r\nc", "back\\slash", "\\.", "日本é😀", "'\"%s{}"],
        ["", "\\N", "tab\there", "a\nb\r\nc", "back\\slash", "\\.", "日本é😀", "'\"%s{}"],
    ),
    (Type("text"), ["x" * 300_000], ["x" * 300_000]),
    (Type("enum", members=("a", "")), ["a", ""], ["a", ""]),
    (Type("set", members=("a", "b")), ["a,b", ""], ["a,b", ""]),
    (Type("json"), ['{"a": "\\u0000\\n", "b": 1.50}'], ['{"a": "\\u0000\\n", "b": 1.50}']),
    (Type("binary", length=4), [b"\0\\\n\t", b""], ["\\x005c0a09", "\\x"]),
    (Type("bit", length=10), [0, 1023, 5], ["0000000000", "1111111111", "0000000101"]),
    (Type("date"), ["1000-01-01", "9999-12-31"], ["1000-01-01", "9999-12-31"]),
    (Type("time", scale=3), ["23:59:59.999"], ["23:59:59.999"]),
    (Type("datetime", scale=6), ["1969-12-31 23:59:59.000001"], ["1969-12-31 23:59:59.000001"]),
    (Type("datetime"), ["2020-02-29 00:00:00"], ["2020-02-29 00:00:00"]),
    (Type("timestamp", scale=2), ["2021-03-28 01:30:00.25"], ["2021-03-28 01:30:00.25+00"]),
    (
        Type("interval", scale=1),
        ["-838:59:59.0", "838:59:59.5", "00:00:00.0", "-00:00:01.5"],
        ["-838:59:59", "838:59:59.5", "00:00:00", "-00:00:01.5"],
    ),
    (
        Type("uuid"),
        ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
        ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    ),
    (Type("geometry"), [b"\x01\x01"], ["\\x0101"]),
]
#: The accelerator does not know these types.
ARRAYS: list[Values] = [
    (
        Type("array", element=Type("text")),
        [["a", None, 'q"\\\n,{}', "NULL", ""], []],
        ['{a,NULL,"q\\"\\\\\n,{}","NULL",""}', "{}"],
    ),
    (
        Type("array", element=Type("array", element=Type("int32"))),
        [[[1, 2], [3, 4]]],
        ["{{1,2},{3,4}}"],
    ),
]


def wide_table(each: list[Values]) -> Table:
    columns = [Column(f"c{n}", type, str(type)) for n, (type, _, _) in enumerate(each)]
    strict = [Column(f"s{n}", type, str(type), False) for n, (type, _, _) in enumerate(each)]
    return Table(TableId("types", "wide"), (ID, *columns, *strict), key=(0,))


def wide_rows(each: list[Values]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Rows, and their expected texts. Each value occurs once in its nullable column, which is NULL
    in all other rows."""
    rows, texts = [], []
    for n, (_, values, shown) in enumerate(each):
        for value, text in zip(values, shown, strict=True):
            sparse = [value if m == n else None for m in range(len(each))]
            rows.append((len(rows), *sparse, *(its[1][0] for its in each)))
            sparse_text = [text if m == n else None for m in range(len(each))]
            texts.append((str(len(texts)), *sparse_text, *(its[2][0] for its in each)))
    return rows, texts


def shown(target: Target, table: Table) -> list[tuple[Any, ...]]:
    names = ", ".join(f'"{name}"::text' for name in table.names)
    return target.query(f"SELECT {names} FROM {table.id} AS t ORDER BY t.id")


@pytest.mark.parametrize("each", [VALUES, [*VALUES, *ARRAYS]], ids=["scalars", "arrays-too"])
def test_every_type_by_copy_and_as_parameters(
    postgres_family: AnyServer, fresh_postgres_database: Fresh, each: Any
) -> None:
    wide, (rows, texts) = wide_table(each), wide_rows(each)
    with opened(fresh_postgres_database(postgres_family)) as target:
        target.create(wide)
        assert len(rows) > LEAST_SINGLE_ROWS
        target.do(insert(wide, *rows))
        by_copy = shown(target, wide)
        target.do(Rows(wide, "delete", rows, None))
        for start in range(0, len(rows), LEAST_SINGLE_ROWS):
            target.do(insert(wide, *rows[start : start + LEAST_SINGLE_ROWS]))
        assert by_copy == texts
        assert shown(target, wide) == texts


def encoder(*columns: Column, key: tuple[int, ...] = ()) -> Encoder:
    fields = [Field(n, column, n in key) for n, column in enumerate(columns)]
    return Encoder(TableId("shop", "t"), fields, len(columns))


TEXT = Column("t", Type("text"), "text")
DAY = Column("d", Type("date"), "date")
MOMENT = Column("m", Type("datetime"), "datetime", nullable=False)


def encoded(encoder: Encoder, *rows: tuple[Any, ...]) -> bytes:
    return b"".join(encoder.pieces(list(rows)))


def test_the_docstring_s_example_is_the_generated_encoder() -> None:
    columns = (ID, replace(DAY, name="day", nullable=False), replace(TEXT, name="body"))
    fields = [Field(n, column) for n, column in enumerate(columns)]
    generated = Encoder(TableId("shop", "notes"), fields, len(columns))._compile_lines()
    assert textwrap.indent(generated.__source__, "    ") in (copy.__doc__ or "")  # type: ignore[attr-defined]


def test_text_is_escaped_only_where_necessary() -> None:
    it = encoder(ID, TEXT)
    assert encoded(it, (1, "plain"), (2, None)) == b"1\tplain\n2\t\\N\n"
    assert encoded(it, (1, "\\N"), (2, None)) == b"1\t\\\\N\n2\t\\N\n"
    assert encoded(encoder(TEXT), ("a\tb",), ("\r",), ("c\nd",)) == b"a\\tb\n\\r\nc\\nd\n"


def test_backslashes_of_the_encoding_are_not_escaped() -> None:
    it = encoder(ID, TEXT, Column("b", Type("binary"), "blob"))
    rows: list[tuple[Any, ...]] = [(1, None, None), (2, "x", b"\\\t"), (3, "y", None)]
    assert encoded(it, *rows) == b"1\t\\N\t\\N\n2\tx\t\\\\x5c09\n3\ty\t\\N\n"
    assert encoded(it, (1, "\\x", b"")) == b"1\t\\\\x\t\\\\x\n"


def test_escaping_a_whole_column_keeps_its_nulls_and_other_columns() -> None:
    it = encoder(ID, TEXT, replace(TEXT, name="u"), Column("v", Type("text"), "text", False))
    rows = [(1, "a\\", None, "x"), (2, None, "\t\0", "\0"), (3, "", "b", ""), (4, "\r", "\\N", "y")]
    assert encoded(it, *rows).splitlines() == [
        b"1\ta\\\\\t\\N\tx",
        b"2\t\\N\t\\t\t",
        b"3\t\tb\t",
        b"4\t\\r\t\\\\N\ty",
    ]
    assert it.take_replaced() == {("u", "nul_byte"): 1, ("v", "nul_byte"): 1}


def test_u0000_in_an_array_is_removed_and_counted() -> None:
    it = encoder(ID, Column("a", Type("array", element=Type("text")), "text[]"))
    assert encoded(it, (1, ["x\0", None]), (2, None), (3, ["\t"])) == (
        b'1\t{"x",NULL}\n2\t\\N\n3\t{"\\t"}\n'
    )
    assert it.parameters([(1, ["x\0"])]) == [("1", '{"x"}')]
    assert it.take_replaced() == {("a", "nul_byte"): 2}


def test_one_value_among_many_is_escaped() -> None:
    rows: list[tuple[Any, ...]] = [(n, "x" * 50) for n in range(5000)]
    rows[3210] = (3210, "a\\tb")
    lines = encoded(encoder(ID, TEXT), *rows).splitlines()
    assert len(lines) == 5000
    assert lines[3210] == b"3210\ta\\\\tb"
    assert lines[3211] == b"3211\t" + b"x" * 50


def test_pieces_are_neither_too_large_nor_too_small() -> None:
    rows: list[tuple[Any, ...]] = [(n, "x" * 400) for n in range(9000)]
    sizes = [len(piece) for piece in encoder(ID, TEXT).pieces(rows)]
    assert all(size < 256 * 1024 for size in sizes)
    assert all(size > 64 * 1024 for size in sizes[:-1])
    huge = encoder(ID, TEXT).pieces([(n, "x" * 100_000) for n in range(300)])
    assert len(next(huge)) > 20_000_000
    assert len(next(huge)) < 300_000


def test_a_null_in_a_not_null_column_is_sent_as_null() -> None:
    assert encoded(encoder(replace(TEXT, nullable=False)), (None,)) == b"\\N\n"


@pytest.mark.parametrize(
    "day", ["0000-00-00", "2020-00-10", "2020-02-31", "2100-02-29", "2020-10-00", "0000-01-01"]
)
def test_a_date_that_does_not_exist_becomes_null_and_is_counted(day: str) -> None:
    it = encoder(DAY, MOMENT, TEXT)
    row = (day, f"{day} 10:00:00", "a\tb")
    assert encoded(it, row, ("2020-02-29", "2020-02-29 10:00:00", "x")) == (
        b"\\N\t\\N\ta\\tb\n2020-02-29\t2020-02-29 10:00:00\tx\n"
    )
    assert it.take_replaced() == {("d", "zero_date"): 1, ("m", "zero_date"): 1}
    assert it.parameters([row]) == [(None, None, "a\tb")]
    assert it.take_replaced() == {("d", "zero_date"): 1, ("m", "zero_date"): 1}
    assert it.take_replaced() == {}


@pytest.mark.parametrize("day", ["2020-02-29", "0001-01-01", "9999-12-31", "2000-02-29"])
def test_a_date_that_exists_is_unchanged(day: str) -> None:
    it = encoder(DAY, MOMENT)
    row = (day, f"{day} 23:59:59")
    assert encoded(it, row) == f"{day}\t{day} 23:59:59\n".encode()
    assert it.parameters([row]) == [row]
    assert it.take_replaced() == {}


def test_a_zero_date_in_the_key_is_minus_infinity_and_any_other_invalid_date_an_error() -> None:
    it = encoder(DAY, MOMENT, TEXT, key=(0, 1))
    assert encoded(it, ("0000-00-00", "0000-00-00 00:00:00", "")) == b"-infinity\t-infinity\t\n"
    assert it.take_replaced() == {("d", "zero_date"): 1, ("m", "zero_date"): 1}
    for row in (("2020-02-31", "2020-01-01", ""), ("2020-01-01", "0000-00-00 00:00:01", "")):
        with pytest.raises(ApplyError, match=r"is part of the key.*shop\.t") as raised:
            encoded(it, row)
        assert "zero_date" in raised.value.hint


def test_u0000_in_the_key_is_replaced_by_a_character() -> None:
    it = encoder(TEXT, key=(0,))
    assert encoded(it, ("a\0",), ("a␀",)) == "a\U000f0000\na␀\n".encode()
    assert it.parameters([("a\0",), ("a␀",)]) == [("a\U000f0000",), ("a␀",)]
    assert it.take_replaced() == {("t", "nul_byte"): 2}


def test_a_key_does_not_hold_the_character_that_stands_for_u0000() -> None:
    """Otherwise one of two rows would be lost."""
    it = encoder(TEXT, key=(0,))
    refused = pytest.raises(ApplyError, match=r"column t is part of the key and holds")
    with refused:
        encoded(it, ("a",), (f"a{KEY_NUL}",))
    with refused:
        it.parameters([(KEY_NUL,)])
    exact = stored(TEXT, key=True, nul_byte="error")
    assert exact.parameters([(KEY_NUL, 1)]) == [(KEY_NUL, "1")]


def test_u0000_is_removed_and_counted() -> None:
    it = encoder(ID, TEXT)
    assert encoded(it, (1, "a\0b\0"), (2, "c")) == b"1\tab\n2\tc\n"
    assert it.parameters([(1, "a\0b")]) == [("1", "ab")]
    assert it.take_replaced() == {("t", "nul_byte"): 2}


def stored(column: Column, key: bool = False, **policies: Any) -> Encoder:
    """The encoder of a column with these policies, and an integer after it."""
    field = Field(0, column, key, StoragePolicies(**policies))
    return Encoder(TableId("shop", "t"), [field, Field(1, ID)], 2)


FLAG = Column("f", Type("int8"), "tinyint(1)")
LARGE = Column("u", Type("uint64"), "bigint unsigned")
LATER = replace(MOMENT, nullable=True)
TOO_LARGE = 1 << 63


@pytest.mark.parametrize(
    ("column", "policies", "value", "text", "reason"),
    [
        (DAY, {"zero_date": "epoch"}, "2020-02-31", "1970-01-01", "zero_date"),
        (LATER, {"zero_date": "epoch"}, "0000-00-00 00:00:00", "1970-01-01 00:00:00", "zero_date"),
        (LATER, {"zero_date": "-infinity"}, "2020-00-01 10:00:00", "-infinity", "zero_date"),
        (DAY, {"zero_date": "text"}, "0000-00-00", "0000-00-00", ""),
        (DAY, {"zero_date": "epoch"}, "2020-02-29", "2020-02-29", ""),
        (TEXT, {"nul_byte": "replace"}, "a\0b", "a␀b", "nul_byte"),
        (FLAG, {"tinyint1": "boolean"}, 1, "t", ""),
        (FLAG, {"tinyint1": "boolean"}, 0, "f", ""),
        (FLAG, {"tinyint1": "boolean", "out_of_range": "clamp"}, -2, "t", "out_of_range"),
        (FLAG, {"tinyint1": "boolean", "out_of_range": "null"}, 2, None, "out_of_range"),
        (FLAG, {}, 2, "2", ""),
        (LARGE, {"unsigned_bigint": "bigint"}, TOO_LARGE - 1, str(TOO_LARGE - 1), ""),
        (
            LARGE,
            {"unsigned_bigint": "bigint", "out_of_range": "clamp"},
            TOO_LARGE,
            str(TOO_LARGE - 1),
            "out_of_range",
        ),
    ],
)
def test_a_policy_decides_about_a_value(
    column: Column, policies: dict[str, Any], value: Any, text: str | None, reason: str
) -> None:
    it = stored(column, **policies)
    sent = "\\N" if text is None else text
    assert encoded(it, (value, 1), (None, 2)) == f"{sent}\t1\n\\N\t2\n".encode()
    assert it.parameters([(value, 1)]) == [(text, "1")]
    assert it.take_replaced() == ({(column.name, reason): 2} if reason else {})


@pytest.mark.parametrize(
    ("column", "key", "policies", "value", "name"),
    [
        (DAY, False, {"zero_date": "error"}, "0000-00-00", "zero_date"),
        (DAY, True, {"zero_date": "error"}, "0000-00-00", "zero_date"),
        (TEXT, False, {"nul_byte": "error"}, "\0", "nul_byte"),
        (FLAG, False, {"tinyint1": "boolean"}, 2, "out_of_range"),
        (FLAG, True, {"tinyint1": "boolean", "out_of_range": "clamp"}, 2, "source"),
        (LARGE, False, {"unsigned_bigint": "bigint"}, TOO_LARGE, "out_of_range"),
    ],
)
def test_a_policy_refuses_a_value(
    column: Column, key: bool, policies: dict[str, Any], value: Any, name: str
) -> None:
    it = stored(column, key, **policies)
    for encode in (lambda: encoded(it, (value, 1)), lambda: it.parameters([(value, 1)])):
        with pytest.raises(ApplyError, match=rf"column {column.name} .*shop\.t") as raised:
            encode()
        assert name in raised.value.hint


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ApplyError, match="not Unicode"):
        encoded(encoder(TEXT), ("\ud800",))


def test_the_time_per_row_stays_small() -> None:
    short = Column("c", Type("text", length=120), "char(120)", nullable=False)
    it = encoder(ID, replace(ID, name="k"), short, replace(short, name="pad"))
    rows = [(n, n, "c" * 119, "p" * 59) for n in range(20_000)]
    best = min(_seconds(it, rows) for _ in range(5))
    assert best / len(rows) < 3e-6  # 0.4 µs on an idle machine


def _seconds(it: Encoder, rows: list[tuple[Any, ...]]) -> float:
    start = time.perf_counter()
    for _ in it.pieces(rows):
        pass
    return time.perf_counter() - start


def test_large_values_are_written_slice_by_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The text is the same as if they were written at once."""
    data = Column("data", Type("binary"), "longblob")
    it = encoder(ID, TEXT, data, Column("more", Type("text"), "text"))
    text, blob = "a\tb\\c\nd\U0001f600" * 5_000, bytes(range(256)) * 200
    rows: list[tuple[Any, ...]] = [
        (1, "x", b"y", None),
        (2, text, None, "z"),
        (3, None, blob, text),
        (4, text, blob, None),
        (5, "", b"", ""),
    ]
    expected = b"".join(it.pieces(rows))
    monkeypatch.setattr("sinks.postgres.copy.LARGE_BYTES", 1_000)
    monkeypatch.setattr("sinks.postgres.large_rows.SLICE", 777)
    pieces = list(it.pieces(rows, large=True))
    assert b"".join(pieces) == expected
    assert len(pieces) > 200
    monkeypatch.setattr("sinks.postgres.copy.LARGEST_ROW_BYTES", 50_000)
    with pytest.raises(ApplyError, match="larger than PostgreSQL can receive") as caught:
        list(it.pieces(rows, large=True))
    assert not caught.value.of_rows
