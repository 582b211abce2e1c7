"""
The mapping of one table: the target's table, its rows, and what is refused.
"""

from __future__ import annotations

from typing import Any

import pytest

from engine.change import Row, Rows
from engine.databases.mysql.types import neutral_type
from engine.errors import ApplyError, ConfigError, SchemaError
from engine.mapping.masks import digits_mask, hash_mask
from engine.mapping.table import TableMapping
from engine.schema import Column, Index, Table, TableId, Type
from engine.settings.mapping import TableRules, rules_of

TEXT = "varchar(20) character set utf8mb4 collate utf8mb4_bin"
COLUMNS = {"id": "int", "price": "decimal(8,2)", "state": TEXT, "active": "tinyint(1)"}
TABLE = Table(
    TableId("shop", "orders"),
    tuple(
        Column(name, neutral_type(kind), kind, nullable=name != "id")
        for name, kind in COLUMNS.items()
    ),
    key=(0,),
    indexes=(Index("by_state", (2,)), Index("by_price", (1, 2))),
)
ONE: Row = (1, "2.50", "paid", 1)
TWO: Row = (2, "-1.00", "new", 0)
NONE: Row = (3, None, None, None)


def make(**rules: Any) -> TableMapping:
    return TableMapping(TABLE, TableRules(**rules), "key")


def mapped(mapping: TableMapping, rows: Rows) -> list[tuple[str, Any, Any]]:
    return [(it.op, it.before, it.after) for it in mapping.rows(rows, mapping.target)]


def insert(*rows: Row) -> Rows:
    return Rows(TABLE, "insert", None, list(rows))


def update(*pairs: tuple[Row, Row]) -> Rows:
    return Rows(TABLE, "update", [old for old, _ in pairs], [new for _, new in pairs])


def changed(row: Row, **values: Any) -> Row:
    return tuple(values.get(name, value) for name, value in zip(COLUMNS, row, strict=True))


def test_columns_are_selected_renamed_and_dropped() -> None:
    mapping = make(
        to="crm.*",
        select="price * 2 AS twice, *, 'x' AS mark",
        rename={"id": "key"},
        drop=("state",),
    )
    assert mapping.target.id == TableId("crm", "orders")
    assert mapping.target.names == ("twice", "key", "price", "active", "mark")
    assert mapping.target.key == (1,)
    assert mapping.target.indexes == ()
    assert mapping.target.columns[0].type == Type("decimal", precision=9, scale=2)
    assert mapped(mapping, insert(ONE, NONE)) == [
        ("insert", None, [("5.00", 1, "2.50", 1, "x"), (None, 3, None, None, "x")])
    ]


def test_an_expression_takes_the_place_of_a_column() -> None:
    mapping = make(select="*, upper(state) AS state")
    assert mapping.target.names == TABLE.names
    assert [index.name for index in mapping.target.indexes] == []
    assert mapped(mapping, insert(ONE)) == [("insert", None, [(1, "2.50", "PAID", 1)])]


def test_updates_that_cross_the_filter() -> None:
    mapping = make(where="state = 'paid'")
    out, back = changed(ONE, state="new"), changed(TWO, state="paid")
    rows = update((ONE, out), (TWO, back), (ONE, ONE), (TWO, NONE), (NONE, ONE))
    assert mapped(mapping, rows) == [
        ("delete", [ONE], None),
        ("insert", None, [back]),
        ("update", [ONE], [ONE]),
        ("insert", None, [ONE]),
    ]
    assert mapped(mapping, Rows(TABLE, "delete", [TWO, ONE], None)) == [("delete", [ONE], None)]
    assert mapped(mapping, Rows(TABLE, "read", None, [TWO, NONE])) == []


def test_masks() -> None:
    mapping = make(
        select="id, state AS a, state AS b, state AS c, state AS d, price AS e",
        mask={
            "a": "hash",
            "b": "truncate(2)",
            "c": "redact",
            "d": "null",
            "e": "hash",
            "id": "hash",
        },
    )
    ((_, _, rows),) = mapped(mapping, insert(ONE, NONE))
    hashed = hash_mask("key")
    assert rows[0] == (hashed("1"), hashed("paid"), "pa", "redacted", None, hashed("2.50"))
    assert rows[1] == (hashed("3"), None, None, None, None, None)


@pytest.mark.parametrize("size", range(1, 4))
def test_masked_digits_are_a_permutation(size: int) -> None:
    mask = digits_mask("key")
    texts = [str(n).zfill(size) for n in range(10**size)]
    assert sorted(map(mask, texts)) == texts
    assert mask("+41 (79)") != "+41 (79)"
    assert mask("no digits") == "no digits"


def test_types() -> None:
    types = {"id": "bigint", "price": "decimal(12,4)", "active": "boolean", "state": "json"}
    mapping = make(types=types)
    assert [str(column.type) for column in mapping.target.columns] == [
        *("int64", "decimal(12,4)", "json", "boolean"),
    ]
    assert mapped(mapping, insert(ONE)) == [("insert", None, [(1, "2.5000", "paid", True)])]
    with pytest.raises(ApplyError, match="neither 0 nor 1"):
        mapped(mapping, insert(changed(ONE, active=2)))
    with pytest.raises(ConfigError, match="without loss"):
        make(types={"price": "int"})


def test_assertions() -> None:
    mapping = make(where="state <> 'draft'", assert_=("price >= 0", "id > 0"))
    assert mapped(mapping, insert(ONE)) == [("insert", None, [ONE])]
    assert mapped(mapping, insert(changed(TWO, state="draft"))) == []
    assert mapped(mapping, insert(changed(NONE, state="x")))  # NULL breaks no rule
    with pytest.raises(ApplyError, match="assert 'price >= 0'") as raised:
        mapped(mapping, update((ONE, TWO)))
    assert raised.value.table == "shop.orders"
    assert mapped(mapping, Rows(TABLE, "delete", [TWO], None))  # only new rows are looked at


def test_one_rule_needs_no_list() -> None:
    assert TableRules(assert_="id > 0").assert_ == ("id > 0",)


def test_partial_images() -> None:
    """GIVEN images without some columns WHEN they are mapped THEN absent columns stay absent, and
    what cannot be known is an error."""
    mapping = make(select="id, price * 2 AS twice, state")
    image = Rows(TABLE, "update", [ONE], [(1, None, "new", None)], 0b0001, 0b0101)
    ((_, before, after),) = mapped(mapping, image)
    assert (before, after) == ([(1, None, None)], [(1, None, "new")])
    (rows,) = mapping.rows(image, mapping.target)
    assert (rows.before_present, rows.after_present) == (0b001, 0b101)
    with pytest.raises(SchemaError, match="row images are partial"):
        mapped(make(where="state = 'x'"), image)
    with pytest.raises(SchemaError, match="row images are partial"):
        mapped(make(select="id, concat(price, state) AS both"), image)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"select": "id, nonsense"}, "no column nonsense, at character 5"),
        ({"select": "id, lower(price +"}, "is not SQL near character"),
        ({"select": "price"}, "the key column id is not carried"),
        ({"select": "id, price + 1"}, "an expression has no name"),
        ({"select": "id, soundex(state) AS x"}, "SOUNDEX"),
        ({"select": "id, state > price AS x"}, "a text is compared with a decimal"),
        ({"select": "id, id AS ID"}, "two columns"),
        ({"where": "state = 'é' COLLATE utf8mb4_0900_ai_ci"}, "none of them is an ASCII literal"),
        ({"where": "lower(state)"}, "not a condition"),
        ({"where": "id = 1, price > 2"}, "a list of expressions, not a condition"),
        ({"assert_": "price > "}, "an operand is missing"),
        ({"where": "id = 1 || id = 2"}, "OR or concatenation"),
        ({"drop": ("stat",)}, "there is no column stat"),
        ({"mask": {"price": "digits"}}, "which is no text"),
        ({"mask": {"emial": "hash"}}, "there is no column emial"),
        ({"mask": {"id": "null"}}, "the key column id is not carried"),
    ],
)
def test_wrong_rules_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(**rules)
    assert message in str(raised.value)
    assert raised.value.table == "shop.orders" or "mapping." in str(raised.value)


def test_a_mask_needs_the_secret() -> None:
    with pytest.raises(ConfigError, match="needs a secret"):
        TableMapping(TABLE, TableRules(mask={"state": "hash"}), "")


def test_the_keys_of_the_last_pattern_count() -> None:
    settings = {
        "shop.*": TableRules(to="crm.*", drop=("a",)),
        "shop.orders": TableRules(drop=("b",), where="x > 0"),
        "other.*": TableRules(to="x.*"),
    }
    found = rules_of(settings, TableId("shop", "orders"))
    assert found == TableRules(to="crm.*", drop=("b",), where="x > 0")
    assert rules_of(settings, TableId("else", "orders")) is None
