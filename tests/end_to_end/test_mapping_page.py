"""docs/mapping.md as a reader types it: its configurations run, its list of functions is whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from engine.cli.main import main
from engine.mapping.functions import SUPPORTED_FUNCTIONS
from tests.support.engine_process import write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.shops import catch_up

PAGE = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text()
ORDERS = """CREATE TABLE orders (id INT PRIMARY KEY, nm VARCHAR(30), price DECIMAL(8,2),
quantity INT, zip VARCHAR(10), internal_note TEXT, state VARCHAR(10), email VARCHAR(60),
phone VARCHAR(20)) CHARACTER SET utf8mb4"""
ROWS = """INSERT INTO orders VALUES (1, 'Ann', 1.5, 2, '8050', 'x', 'new', 'a@b', '+41 79 123'),
(2, NULL, 1, 1, '1', 'x', 'draft', NULL, NULL), (3, NULL, 1, 1, '1', 'x', NULL, NULL, NULL)"""
CUSTOMER = "CREATE TABLE customer (id INT PRIMARY KEY, name VARCHAR({})) CHARACTER SET utf8mb4"


def test_the_list_of_functions_is_whole() -> None:
    listed = PAGE.partition("## Expressions")[2].partition("\n\nTexts are compared")[0]
    lines = re.findall(r"^- (?:numbers|texts|dates|NULL): (.*)$", listed, re.MULTILINE)
    names = {name for line in lines for name in re.findall(r"`([A-Z0-9_]+)`", line)}
    assert names == set(SUPPORTED_FUNCTIONS)


def test_the_configurations_of_the_page(
    mysql: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    target_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GIVEN the tables that the page is about WHEN its examples are run THEN the target has the
    columns and rows that it promises."""
    monkeypatch.setenv("MASK_KEY", "a secret")
    first, merged = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    shop, north, south = (fresh_mysql_database(mysql) for _ in range(3))
    for database, statements in (
        (shop, (ORDERS, ROWS)),
        (north, (CUSTOMER.format(20), "INSERT INTO customer VALUES (1, 'n')")),
        (south, (CUSTOMER.format(40), "INSERT INTO customer VALUES (1, 's')")),
    ):
        with connect_mysql(mysql, database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            connection.commit()
    tables = '", "'.join(f"{database}.*" for database in (shop, north, south))
    more = first.replace('"shop.', f'"{shop}.') + merged
    config = write_config(tmp_path, mysql.url, target_database, tables, more=more)
    assert main(["check", str(config)]) == 0
    catch_up(config)
    assert main(["verify", str(config)]) == 0
    with psycopg.connect(target_database) as target:
        cursor = target.execute("SELECT * FROM crm.orders")
        assert [column.name for column in cursor.description or ()] == [
            *("id", "name", "price", "quantity", "zip", "state", "email", "phone"),
            *("total", "region"),
        ]
        (row,) = cursor.fetchall()
        assert (row[1], str(row[8]), row[9], len(row[6])) == ("Ann", "3.00", "80", 64)
        assert re.fullmatch(r"\+\d\d \d\d \d\d\d", row[7])
        rows = target.execute("SELECT * FROM crm.customer ORDER BY name").fetchall()
        assert rows == [(north, 1, "n"), (south, 1, "s")]
