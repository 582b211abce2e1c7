"""
Change records: JSON holds every value without loss.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.change import Begin, Change, Commit, Heartbeat, Row, Rows, SchemaChange, Truncate
from engine.errors import ApplyError
from engine.schema import Column, Kind, Table, TableId, Type
from engine.toolkit.record import RecordEncoder, decode_image, decode_record

ID = Column("id", Type("int64"), "bigint", nullable=False)
NAME = Column("name", Type("text"), "varchar(20)")
TABLE = Table(TableId("shop", "item"), (ID, NAME), key=(0,), version=3)
KEYLESS = Table(TableId("shop", "note"), (NAME,))
BEGIN = Begin("gtid:5", "gtid:1-4", 1_700_000_000.25)
COMMIT = Commit("gtid:1-5", 1_700_000_000.25)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
MOMENTS = st.sampled_from(
    ["0000-00-00 00:00:00", "2026-01-31 23:59:59.123456", "1000-01-01 00:00:00"]
)
#: Values of every neutral type, in the form of ``engine.schema``.
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    **{
        kind: st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        for kind, bits in (("int8", 8), ("int16", 16), ("int24", 24), ("int32", 32), ("int64", 64))
    },
    **{
        kind: st.integers(0, 2**bits - 1)
        for kind, bits in (
            *(("uint8", 8), ("uint16", 16), ("uint24", 24)),
            *(("uint32", 32), ("uint64", 64), ("bit", 64)),
        )
    },
    "decimal": st.decimals(allow_nan=False, allow_infinity=False, places=30).map(
        lambda d: f"{d:f}"
    ),
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "text": TEXTS,
    "binary": st.binary(),
    "date": st.dates().map(str) | st.just("0000-00-00"),
    "time": st.times().map(str),
    "datetime": MOMENTS,
    "timestamp": MOMENTS,
    "interval": st.sampled_from(["-838:59:59.000000", "00:00:00", "838:59:59"]),
    "json": st.just('{"a": 1.10, "a": 2}') | TEXTS,
    "enum": TEXTS,
    "set": st.just("a,b"),
    "uuid": st.uuids().map(str),
    "geometry": st.binary(min_size=9),
}


def lines(*changes: Change, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RecordEncoder(**options).encode(changes)]


@st.composite
def tables_with_rows(draw: st.DrawFn) -> tuple[Table, list[Row]]:
    """A table of random types and random names, and rows of it."""
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=8))
    names = draw(st.lists(TEXTS, min_size=len(kinds), max_size=len(kinds), unique=True))
    types = [Type("array", element=Type(k)) if draw(st.booleans()) else Type(k) for k in kinds]
    columns = tuple(Column(n, t, t.kind) for n, t in zip(names, types, strict=True))
    values = (
        st.none() | (st.lists(VALUES[kind]) if type.kind == "array" else VALUES[kind])
        for kind, type in zip(kinds, types, strict=True)
    )
    rows = draw(st.lists(st.tuples(*values), min_size=1, max_size=3))
    return Table(TableId("a", "b"), columns, key=(0,)), rows


@given(tables_with_rows())
def test_a_decoded_image_is_the_row(drawn: tuple[Table, list[Row]]) -> None:
    table, rows = drawn
    encoded = RecordEncoder().encode([Rows(table, "update", rows, rows)])
    for line, row in zip(encoded, rows, strict=True):
        record = decode_record(line)
        assert record.before is not None
        assert record.after is not None
        assert decode_image(table, record.before) == row
        assert decode_image(table, record.after) == row


def test_every_neutral_type_is_tested() -> None:
    assert set(VALUES) == set(Kind.__args__) - {"array"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("decimal", "-12.50", '"-12.50"'),
        ("uint64", 2**64 - 1, "18446744073709551615"),
        ("binary", b"\x00\xff", '"AP8="'),
        ("datetime", "2026-01-31 12:00:00.50", '"2026-01-31T12:00:00.50"'),
        ("timestamp", "2026-01-31 12:00:00", '"2026-01-31T12:00:00Z"'),
        ("float32", 0.10000000149011612, "0.10000000149011612"),
        ("float64", float("-inf"), '"-inf"'),
        ("json", '{"a": 1.10}', r'"{\"a\": 1.10}"'),
        ("interval", "-838:59:59", '"-838:59:59"'),
    ],
)
def test_the_form_of_a_value(kind: Kind, value: Any, text: str) -> None:
    table = Table(TableId("a", "b"), (Column("v", Type(kind), kind),))
    (line,) = RecordEncoder().encode([Rows(table, "insert", None, [(value,)])])
    assert f'"after":{{"v":{text}}}'.encode() in line


def test_nan_is_written_as_text() -> None:
    table = Table(TableId("a", "b"), (Column("v", Type("float64"), "double"),))
    (record,) = lines(Rows(table, "insert", None, [(float("nan"),)]))
    assert record["after"] == {"v": "nan"}


def test_the_fields_of_a_change() -> None:
    changes = [BEGIN, Rows(TABLE, "update", [(1, "a")], [(2, "b")]), COMMIT]
    assert lines(*changes) == [
        {
            "op": "update",
            "schema": "shop",
            "table": "item",
            "version": 3,
            "key": {"id": 1},
            "before": {"id": 1, "name": "a"},
            "after": {"id": 2, "name": "b"},
            "transaction": "gtid:5",
            "position": "gtid:1-4",
            "order": 0,
            "committed_at": "2023-11-14T22:13:20.250000Z",
        }
    ]


def test_the_order_counts_within_a_transaction_that_comes_in_pieces() -> None:
    encoder = RecordEncoder()
    pieces: list[list[Change]] = [
        [BEGIN, Rows(TABLE, "insert", None, [(1, "a"), (2, "b")])],
        [Rows(KEYLESS, "delete", [("x",)], None), Truncate(KEYLESS), COMMIT],
        [Begin("gtid:6", "gtid:1-5", 0.0), Rows(TABLE, "delete", [(1, "a")], None)],
    ]
    records = [decode_record(line) for piece in pieces for line in encoder.encode(piece)]
    assert [(record.transaction, record.order) for record in records] == [
        *(("gtid:5", order) for order in range(4)),
        ("gtid:6", 0),
    ]
    assert [record.op for record in records] == ["insert", "insert", "delete", "truncate", "delete"]
    assert records[2].key is None
    assert records[4].committed_at is None


def test_rows_of_the_snapshot_belong_to_no_transaction() -> None:
    (record,) = lines(Rows(TABLE, "read", None, [(1, None)]))
    assert (record["op"], record["key"], record["before"]) == ("read", {"id": 1}, None)
    assert record["after"] == {"id": 1, "name": None}
    assert {record[name] for name in ("transaction", "position", "order", "committed_at")} == {None}


def test_an_absent_column_is_missing_and_named() -> None:
    rows = Rows(TABLE, "update", [(1, None)], [(1, None)], 0b01, 0b01)
    (update,) = lines(BEGIN, rows)
    assert (update["before"], update["after"], update["absent"]) == ({"id": 1}, {"id": 1}, ["name"])
    (delete,) = lines(BEGIN, Rows(TABLE, "delete", [(1, None)], None, 0b01))
    assert (delete["before"], delete["absent"]) == ({"id": 1}, ["name"])


def test_a_schema_change_holds_the_table() -> None:
    after = Table(TableId("shop", "article"), (ID,), key=(0,), version=4)
    change = SchemaChange("RENAME TABLE …", TABLE, after, renamed=(("a", "b"),))
    (line,) = RecordEncoder().encode([BEGIN, change, COMMIT, Heartbeat("x", 1.0)])
    record = decode_record(line)
    assert (record.op, record.table, record.statement) == ("schema", "article", "RENAME TABLE …")
    assert record.definition.table == after  # type: ignore[union-attr]
    assert record.definition.previous == TABLE.id  # type: ignore[union-attr]
    assert record.definition.renamed == (("a", "b"),)  # type: ignore[union-attr]
    (line,) = RecordEncoder().encode([SchemaChange("DROP", TABLE, None)])
    dropped = decode_record(line)
    assert (dropped.table, dropped.definition.table) == ("item", None)  # type: ignore[union-attr]


def test_the_error_for_invalid_unicode_names_the_table_and_not_the_value() -> None:
    with pytest.raises(ApplyError, match=r"\[table shop\.item\]") as caught:
        list(RecordEncoder().encode([Rows(TABLE, "insert", None, [(1, "sec\udcffret")])]))
    assert "ret" not in caught.value.message.replace("correct", "")


def test_encode_all_joins_the_lines_of_encode() -> None:
    changes: list[Change] = [BEGIN, Rows(TABLE, "insert", None, [(1, "a"), (2, "b")]), COMMIT]
    assert RecordEncoder().encode_all(changes) == b"".join(RecordEncoder().encode(changes))


# -- Debezium's envelope ---------------------------------------------------------------------------


def test_debeziums_envelope() -> None:
    changes: list[Change] = [
        BEGIN,
        Rows(KEYLESS, "insert", None, [("x",)]),
        Rows(TABLE, "update", [(1, "a")], [(1, "b")]),
        Rows(TABLE, "delete", [(1, "b")], None),
        Truncate(KEYLESS),
        COMMIT,
        Rows(TABLE, "read", None, [(9, None)]),
    ]
    records = lines(*changes, envelope="debezium", name="shop")
    assert [record["op"] for record in records] == ["c", "u", "d", "t", "r"]
    update = records[1]
    assert (update["before"], update["after"]) == ({"id": 1, "name": "a"}, {"id": 1, "name": "b"})
    source = update["source"]
    assert (source["db"], source["table"], source["name"]) == ("shop", "item", "shop")
    assert (source["gtid"], source["ts_ms"]) == ("gtid:5", 1_700_000_000_250)
    assert [record["source"]["snapshot"] for record in records] == [*["false"] * 4, "true"]
    assert [record["transaction"] for record in records[2:]] == [
        {"id": "gtid:5", "total_order": 3, "data_collection_order": 2},
        {"id": "gtid:5", "total_order": 4, "data_collection_order": 2},
        None,
    ]


def test_debeziums_schema_change() -> None:
    (record,) = lines(BEGIN, SchemaChange("ALTER …", TABLE, TABLE), envelope="debezium")
    assert (record["ddl"], record["databaseName"]) == ("ALTER …", "shop")
    (change,) = record["tableChanges"]
    assert (change["type"], change["id"]) == ("ALTER", '"shop"."item"')
    assert change["table"]["primaryKeyColumnNames"] == ["id"]
    assert [column["typeExpression"] for column in change["table"]["columns"]] == [
        "bigint",
        "varchar(20)",
    ]
