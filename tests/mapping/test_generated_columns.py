"""What a mapping makes of generated columns."""

from __future__ import annotations

import pytest

from engine.databases.mysql.types import neutral_type
from engine.mapping.columns import compile_columns
from engine.mapping.generation import Generator
from engine.schema import Column, Expression, Table, TableId
from engine.settings.mapping import TableRules

SUM = Expression("add", tuple(Expression("column", text=name) for name in "ab"))


@pytest.mark.parametrize(
    ("rules", "name", "columns"),
    [
        (TableRules(rename={"a": "x"}), "add", {"x", "b"}),
        (TableRules(select="*, a + 1 AS c"), "add", {"a", "b"}),
        (TableRules(drop=("a",)), "inexact", {"b"}),
        (TableRules(rename={"b": "y"}, mask={"a": "null"}), "inexact", {"y"}),
    ],
)
def test_expressions_have_the_names_of_the_target(
    rules: TableRules, name: str, columns: set[str]
) -> None:
    """GIVEN a generated column WHEN its table is mapped THEN the target computes it from columns
    that it has with the source's values, or not at all."""
    int32 = neutral_type("int")
    table = Table(
        TableId("shop", "t"),
        (
            Column("id", int32, "int", nullable=False),
            *(Column(name, int32, "int") for name in "ab"),
            Column("g", int32, "int", generated=True, expression=SUM),
        ),
        (0,),
    )
    mapped = {it.column.name: it.column for it in compile_columns(table, rules, Generator(), "")}
    expression = mapped["g"].expression
    assert expression is not None
    assert (expression.name, expression.columns) == (name, columns)
