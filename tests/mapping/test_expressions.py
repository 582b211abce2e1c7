"""
Every function and operator of expressions, over odd values: the generated code and the servers give
the same results.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from types import CodeType, FrameType
from typing import Any

import pytest
from pymysql.err import DatabaseError
from sqlglot import exp

from engine.errors import ConfigError
from engine.mapping import arithmetic, comparisons, functions, runtime
from engine.mapping.arithmetic import _CASTS
from engine.mapping.comparisons import BINARY
from engine.mapping.expressions import _NODES, Compiler, parse_condition
from engine.mapping.functions import FUNCTIONS, SUPPORTED_FUNCTIONS
from engine.mapping.generation import Generator
from engine.mapping.runtime import RUNTIME, OutOfRange, fixed_text
from engine.mapping.values import Shape
from engine.schema import Table, TableId
from engine.toolkit.codegen import compile_function
from tests.support.expressions import EXPRESSIONS, ROWS, create_odd_table, make_table
from tests.support.servers import AnyServer, connect_mysql

Fresh = Callable[[AnyServer], str]


def evaluate(table: Table, text: str, rows: list[tuple[Any, ...]]) -> tuple[Shape, list[Any]]:
    """The results of an expression as text, and their type; "error" for a row that fails."""
    generator = Generator()
    value = Compiler(table, generator).compile(parse_condition(text, "test"), text, "test")
    names = ", ".join(f"c{n}" for n in range(len(table.columns)))
    source = f"def run(row):\n    {names}, = row\n    return {value.code}\n"
    run = compile_function("run", source, {**RUNTIME, **generator.names})
    found: list[Any] = []
    for row in rows:
        try:
            result = run(row)
        except OutOfRange:
            result = "error"
        else:
            assert result is not None or value.nullable, text
        found.append(_as_text(result, value.shape))
    return value.shape, found


def _number(text: Any) -> Any:
    try:
        return text if text is None else Decimal(text)
    except InvalidOperation:
        return text


def _as_text(result: Any, shape: Shape) -> Any:
    if result is None or result == "error":
        return result
    if shape.kind == "number":
        return fixed_text(result, shape.scale)
    return str(int(result)) if shape.kind in ("bool", "bit") else result


@pytest.fixture(params=["mysql", "mariadb_11"])
def odd_rows(
    request: pytest.FixtureRequest, fresh_mysql_database: Fresh
) -> Iterator[Callable[[str], list[Any]]]:
    """A function that returns the server's results of an expression, as text."""
    server: AnyServer = request.getfixturevalue(request.param)
    connection = connect_mysql(server, fresh_mysql_database(server))
    cursor = connection.cursor()
    cursor.execute("SET SESSION sql_mode = '', SESSION time_zone = '+00:00'")
    create_odd_table(cursor, "odd")
    connection.commit()

    def select(expression: str) -> list[Any]:
        query = f"SELECT CAST({expression} AS CHAR) FROM odd"
        try:
            cursor.execute(f"{query} ORDER BY id")
            return [value for (value,) in cursor.fetchall()]
        except DatabaseError as error:
            if "does not exist" in str(error) and expression.startswith(("MD5", "SHA1", "SHA(")):
                return None  # MySQL 9.6 has removed these functions
            return [one(f"{query} WHERE id = {id}") for id, *_ in ROWS]

    def one(query: str) -> Any:
        try:
            cursor.execute(query)
        except DatabaseError as error:
            if "out of range" not in str(error):
                raise
            return "error"
        return cursor.fetchall()[0][0]

    yield select
    connection.close()


def test_results_are_those_of_the_server(odd_rows: Callable[..., list[Any]]) -> None:
    """GIVEN odd values WHEN each expression is evaluated THEN the result is the server's."""
    table = make_table(TableId("shop", "odd"))
    wrong = {}
    for expression in EXPRESSIONS:
        try:
            shape, found = evaluate(table, expression, ROWS)
        except ConfigError as error:
            wrong[expression] = (str(error), "")
            continue
        expected = odd_rows(expression)
        if expected is None:
            continue
        if shape.kind == "number":
            found, expected = (list(map(_number, each)) for each in (found, expected))
        if found != expected:
            wrong[expression] = (found, expected)
    assert not wrong, "\n".join(f"{name}:\n  {a}\n  {b}" for name, (a, b) in wrong.items())


#: Expressions whose result is not the same on all servers, or depends on the session.
REFUSED = [
    *(
        "CONCAT(IF(small > 0, price, 1))",
        "CONCAT(IF(small > 0, 1.50, 2))",
        "CONCAT(CASE WHEN small > 0 THEN price WHEN small < 0 THEN rate ELSE 7 END)",
        "CONCAT(IF(small > 0, 5, built))",
        "CONCAT(NULLIF(built, 1))",
        "CONCAT(IF(small > 0, built, built))",
        "CONCAT(IFNULL(price, 0))",
        "CONCAT(COALESCE(small, price))",
        "CONCAT(IFNULL(built, small))",
        "CONCAT(COALESCE(built, 3))",
        "CONCAT(ROUND(price, 5))",
    ),
    "name = note",
    "'a' = 'A'",
    "day = 'soon'",
    "price = '2.5'",
    "day + 1",
    "price / 2",
    "ratio + 1",
    "RAND() > 0.5",
    "NOW() > day",
    "small IN (1, NULL)",
    "small IN (SELECT 1)",
    "name REGEXP 'a'",
    "odd.small",
    "@x",
    "_latin1 'x' = old",
    "CAST(name AS SIGNED)",
    "CAST(big AS DECIMAL(90,2))",
    "DATE_FORMAT(day, '%W')",
    "DATE_FORMAT(day, '%M')",
    "LEFT(name, 1.5)",
    "LPAD(name, small, 'x')",
    "TRIM(note FROM name)",
    "UPPER(CONCAT(name, id))",
    "name COLLATE utf8mb4_da_0900_ai_ci = 'x'",
    "nothing > 1",
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_the_same_everywhere_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"test: .* at character \d"):
        evaluate(make_table(TableId("shop", "odd")), text, ROWS)


def test_every_function_and_operator_is_compared_with_the_servers() -> None:
    """Each entry of the compiler's tables is in ``EXPRESSIONS``, and each function that makes or
    runs code is called for one of them.
    """
    nodes: set[type[Any]] = set()
    casts: set[str] = set()
    for text in EXPRESSIONS:
        for node in parse_condition(text, "test").walk():
            nodes.add(type(node))
            if isinstance(node, exp.Cast):
                casts.add(node.args["to"].this.name)
    assert {*FUNCTIONS, *_NODES} <= nodes
    assert set(BINARY) <= {node.__name__ for node in nodes}
    assert set(_CASTS) <= casts
    every = "\n".join(EXPRESSIONS)
    assert not [name for name in SUPPORTED_FUNCTIONS if f"{name}(" not in every]
    assert not [code for code in "YymcdeHkisfT" if f"%{code}" not in every]

    modules = (arithmetic, comparisons, functions, runtime)
    files = {module.__file__ for module in modules}
    called: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename in files:
            called.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    table = make_table(TableId("shop", "odd"))
    sys.setprofile(note)
    try:
        for text in EXPRESSIONS:
            evaluate(table, text, ROWS)
    finally:
        sys.setprofile(None)
    defined = {
        (module.__file__, name)
        for module in modules
        for name in _functions(compile(inspect.getsource(module), "", "exec"))
    }
    # The conversion to a boolean is one of `types`.
    assert {name for _, name in defined - called} == {"flag"}


def _functions(code: CodeType) -> Iterator[str]:
    """The names of the functions in a module, without its classes, lambdas and comprehensions, and
    without functions that make another one when the module is imported.
    """
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    for each in inner:
        yield from _functions(each)
    named = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
    if named and "build" not in {each.co_name for each in inner}:
        yield code.co_qualname
