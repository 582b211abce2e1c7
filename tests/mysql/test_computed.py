"""What is read of the expressions of generated columns, and what of it is exact."""

from __future__ import annotations

import pytest

from engine.databases.mysql.types import neutral_type
from engine.databases.postgres.expressions import Inexact, Operand, expression_sql
from engine.schema import Column
from engine.toolkit.policies import StoragePolicies
from sources.mysql.ddl.computed import computed
from sources.mysql.ddl.expressions import read_expression, shown_expression
from sources.mysql.ddl.tokens import Tokens

TYPES = {
    "a": "int",
    "u": "bigint unsigned",
    "p": "decimal(10,2)",
    "f": "double",
    "y": "year",
    "z": "int(5) unsigned zerofill",
    "s": "varchar(20) character set utf8mb4 collate utf8mb4_0900_ai_ci",
    "l": "varchar(20) character set latin1 collate latin1_swedish_ci",
    "k": "char(5) character set utf8mb4 collate utf8mb4_bin",
    "e": "enum('new','Old') character set utf8mb4",
    "w": "enum('a','A') character set utf8mb4",
    "d": "date",
    "t": "timestamp",
    "j": "json",
}
TEXT = "varchar(50) character set utf8mb4"


def sql(expression: str, type: str = "bigint", *, shown: bool = False) -> str:
    """The SQL of a column ``g``, or why it has none."""
    columns = [Column(name, neutral_type(text), text) for name, text in TYPES.items()]
    columns.append(Column("g", neutral_type(type), type, generated=True))
    read = shown_expression(expression, mariadb=False) if shown else None
    found = computed(columns, {"g": read or read_expression(Tokens(expression))})[-1].expression
    assert found is not None
    policies = StoragePolicies(zero_date="error")
    operands = {it.name: Operand(it, policies, True, False) for it in columns[:-1]}
    try:
        return expression_sql(found, operands, "strip").replace('"', "")
    except Inexact as error:
        return f"inexact: {error}"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a - 1 - 2", "((a::numeric - 1::numeric) - 2::numeric)"),
        ("a + p * 2 ", "round((a::numeric + (p::numeric * 2::numeric)), 0)"),
        ("not a = 1 or a and p", "((NOT (a::numeric = 1::numeric)) OR"),
        ("a is null", "((a IS NULL))::integer::numeric"),
        ("e = 'Old'", "((e = 'Old'))::integer::numeric"),
        ("-a % 3", "mod((- a::numeric), nullif(3::numeric, 0))"),
        ("IF(a > 1, 2, NULL)", "CASE WHEN (1::numeric < a::numeric) THEN 2::numeric ELSE NULL END"),
        ("MONTH(d)", "extract(month FROM d)::numeric"),
        ("a DIV a", "div(a::numeric, nullif(a::numeric, 0))"),
    ],
)
def test_exact_expressions(expression: str, expected: str) -> None:
    """GIVEN an expression that is exact WHEN it is translated THEN its precedence is the source's,
    and each conversion is written."""
    found = sql(expression)
    assert expected in found


@pytest.mark.parametrize(
    ("expression", "type"),
    [
        ("a / 2", "bigint"),
        ("p / a", "decimal(10,2)"),
        ("f + 1", "bigint"),
        ("f * p", "double"),
        ("UPPER(s)", TEXT),
        ("s = 'x'", "int"),
        ("s < 'x'", "int"),
        ("CONCAT(s, l)", TEXT),
        ("CONCAT(s, s, s)", TEXT),
        ("CONCAT(k, 'x')", TEXT),
        ("CONCAT(s, p)", TEXT),
        ("CONCAT(s, z)", TEXT),
        ("CONCAT(s, 'é')", TEXT),
        ("CONCAT(s, 'x')", "varchar(50) character set latin1"),
        ("s", "bigint"),
        ("a", TEXT),
        ("y + 1", "bigint"),
        ("YEAR(t)", "int"),
        ("d = '2020-01-01'", "int"),
        ("w = 'a'", "int"),
        ("e = 'old'", "int"),
        ("u DIV a", "bigint"),
        ("p DIV 2", "bigint"),
        ("j->>'$.x'", TEXT),
        ("a || a", "int"),
        ("a & 1", "int"),
        ("missing + 1", "int"),
        ("a +", "int"),
        ("a > 1 > ", "int"),
        ("(((", "int"),
        ('"a"', "int"),
        ("RAND()", "double"),
        ("a COLLATE x", "int"),
        ("NULL", "int"),
    ],
)
def test_inexact_expressions(expression: str, type: str) -> None:
    """GIVEN an expression whose result may differ WHEN it is translated THEN it says why not."""
    assert sql(expression, type).startswith("inexact: ")


def test_expressions_of_the_catalog_are_unescaped() -> None:
    """GIVEN a text as MySQL's catalog shows it WHEN it is read THEN it is that of the statement."""
    shown = r"concat(`s`,_utf8mb4\' it\\\'s \',`a`)"
    assert sql(shown, TEXT, shown=True) == "(s::text || ' it''s ' || (a::numeric)::text)"


def test_a_deep_expression_is_no_error() -> None:
    """GIVEN more parentheses than Python has frames WHEN it is read THEN it is inexact."""
    assert sql("(" * 5000 + "a" + ")" * 5000) == "inexact: it cannot be read"
    assert sql("a" + " + a" * 5000) == "inexact: it is too long"
    assert sql(f"a IN ({', '.join(map(str, range(5000)))})").count("=") == 5000


@pytest.mark.parametrize(
    ("type", "limited"), [("bigint", False), ("tinyint", True), ("decimal(9,2)", True)]
)
def test_limits_only_where_they_matter(type: str, limited: bool) -> None:
    """GIVEN a sum of two INT WHEN its column holds every result THEN nothing limits it."""
    assert ("THEN" in sql("a + a", type)) is limited
