"""
Tables of several databases that a mapping merges into one, from end to end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.cli.main import main
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.shops import catch_up

Fresh = Callable[[AnyServer], str]

RULES = """
[backfill]
chunk_rows = 2
[mapping."*.customer"]
to = "crm.customer"
merge = {{ shop = "schema" }}
drop = ["secret"]
where = "state <> 'gone'"
[mapping."{0}.customer"]
drop = ["secret", "internal"]
"""
CUSTOMER = """
CREATE TABLE customer (id INT PRIMARY KEY, email VARCHAR({0}) UNIQUE, state VARCHAR(9) NOT NULL,
  {1} secret TEXT, KEY (state))
"""


class Shops:
    """Two databases with customers, and the target."""

    def __init__(
        self, server: AnyServer, names: tuple[str, str], target: str, folder: Path
    ) -> None:
        self.names = names
        self.sources = [connect_mysql(server, name) for name in names]
        self.target = psycopg.connect(target, autocommit=True)
        self._where = folder, server.url, target
        self.select(*names)

    def select(self, *names: str) -> None:
        """Configure that the tables of these databases are followed."""
        patterns = '", "'.join(f"{name}.*" for name in names)
        self.config = write_config(*self._where, patterns, more=RULES.format(self.names[0]))

    def execute(self, shop: int, *statements: str) -> None:
        with self.sources[shop].cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        self.sources[shop].commit()

    def expected(self, columns: dict[int, str]) -> Counter[Any]:
        """The rows that the target must have, from the selected columns of each shop."""
        found: Counter[Any] = Counter()
        for shop, selected in columns.items():
            with self.sources[shop].cursor() as cursor:
                cursor.execute(f"SELECT {selected} FROM customer WHERE state <> 'gone'")
                found.update((self.names[shop], *row) for row in cursor.fetchall())
            self.sources[shop].commit()
        return found

    def check(self, target: str, columns: dict[int, str]) -> None:
        """Run the pipeline, and fail unless the target has these rows."""
        catch_up(self.config)
        rows = self.target.execute(f"SELECT shop, {target} FROM crm.customer".encode())
        assert Counter(rows.fetchall()) == self.expected(columns)
        assert main(["verify", str(self.config)]) == 0

    def close(self) -> None:
        for source in self.sources:
            source.close()
        self.target.close()


@pytest.fixture(params=["mysql", "mariadb_11"])
def shops(
    request: pytest.FixtureRequest,
    fresh_mysql_database: Fresh,
    target_database: str,
    tmp_path: Path,
) -> Iterator[Shops]:
    server: AnyServer = request.getfixturevalue(request.param)
    names = fresh_mysql_database(server), fresh_mysql_database(server)
    made = Shops(server, names, target_database, tmp_path)
    made.execute(0, CUSTOMER.format(20, "internal INT,"))
    made.execute(1, CUSTOMER.format(50, "vip INT,"))
    made.execute(0, "INSERT INTO customer VALUES (1, 'a', 'new', 1, ''), (2, 'b', 'gone', 2, '')")
    made.execute(1, "INSERT INTO customer VALUES (1, 'a', 'new', 7, ''), (5, NULL, 'old', 8, '')")
    yield made
    made.close()


def test_shops_are_merged(shops: Shops) -> None:
    """GIVEN two shops whose customers have the same keys WHEN they are merged, written to, altered,
    emptied and dropped THEN each row keeps to its shop, and `verify` finds no difference."""
    columns = {0: "id, email, state, NULL", 1: "id, email, state, vip"}
    shops.check("id, email, state, vip", columns)
    for shop in (0, 1):
        shops.execute(
            shop,
            "INSERT INTO customer (id, email, state) VALUES (10, 'c', 'new'), (11, 'd', 'gone')",
            "UPDATE customer SET state = 'back' WHERE id IN (2, 11)",
            "UPDATE customer SET id = 20, email = 'x' WHERE id = 1",
        )
    shops.execute(0, "DELETE FROM customer WHERE id = 10")
    shops.check("id, email, state, vip", columns)
    shops.execute(1, "TRUNCATE customer", "INSERT INTO customer VALUES (3, 'e', 'new', 9, '')")
    shops.check("id, email, state, vip", columns)
    shops.execute(
        0,
        "ALTER TABLE customer DROP COLUMN internal, ADD COLUMN internal INT, ADD COLUMN more INT"
        " DEFAULT 4",
        "INSERT INTO customer VALUES (30, 'f', 'new', '', 1, 5)",
    )
    shops.execute(1, "UPDATE customer SET vip = 10")
    columns = {0: "id, email, state, NULL, more", 1: "id, email, state, vip, NULL"}
    shops.check("id, email, state, vip, more", columns)
    shops.execute(1, "DROP TABLE customer")
    shops.check("id, email, state, vip, more", {0: columns[0]})


def test_one_of_the_shops_is_not_followed_any_more(
    shops: Shops, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN two shops that are merged WHEN one is excluded, and both change THEN the target keeps
    its rows as they are, and `verify` compares those of the other."""
    assert main(["check", str(shops.config)]) == 0
    assert "PG018" not in capsys.readouterr().out, "the names of shops are short"
    catch_up(shops.config)
    shops.select(shops.names[1])
    shops.execute(0, "UPDATE customer SET state = 'other'")
    shops.execute(1, "INSERT INTO customer (id, state) VALUES (9, 'new'), (10, 'gone')")
    catch_up(shops.config)
    rows = shops.target.execute("SELECT shop, id, state FROM crm.customer").fetchall()
    north, south = shops.names
    assert set(rows) == {
        *((north, 1, "new"), (south, 1, "new"), (south, 5, "old"), (south, 9, "new"))
    }
    assert main(["verify", str(shops.config)]) == 0
    shops.target.execute("DELETE FROM crm.customer WHERE id = 9")
    assert main(["verify", str(shops.config)]) == 3


@pytest.mark.parametrize("shops", ["mysql"], indirect=True)
def test_a_row_that_no_table_has_is_extra(shops: Shops, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN two shops that are merged WHEN the target gets a row of a third one THEN each kind of
    comparison finds it, and a repair says how to remove it; `--table` compares one shop alone."""
    catch_up(shops.config)
    north, south = shops.names
    shops.target.execute("INSERT INTO crm.customer (shop, id, state) VALUES ('junk', 1, 'new')")
    shops.target.execute("DELETE FROM crm.customer WHERE shop = %s AND id = 5", [south])

    def compare(*options: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["verify", str(shops.config), "--json", *options]) == 3
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        (table,) = result["tables"]
        return {**table, **result}

    both = " + ".join(sorted(f"{name}.customer" for name in shops.names))
    junk = {"kind": "extra", "key": ["junk", "1"], "columns": []}
    for options in ((), ("--sample", "99.999%")):
        found = compare(*options)
        assert (found["table"], found["extra"], found["missing"]) == (both, 1, 1), options
        assert junk in found["differences"]
    found = compare("--table", f"{north}.customer")
    assert (found["table"], found["rows"], found["target_rows"]) == (f"{north}.customer", 1, 2)
    assert (found["extra"], found["missing"], found["differences"]) == (1, 0, [junk])
    (plan,) = compare("--repair", "--dry-run")["repair"]
    assert (plan["insert"], plan["delete"]) == (1, 0)
    assert plan["refused"] == (
        "1 row of crm.customer on the target alone, whose shop is that of no table: delete it there"
    )


def test_tables_that_cannot_be_merged(shops: Shops, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN two tables whose columns have no common type THEN the start is refused."""
    shops.execute(1, "UPDATE customer SET email = NULL", "ALTER TABLE customer MODIFY email INT")
    with EngineProcess(shops.config, "--until-caught-up") as engine:
        assert engine.wait() == 2
        assert "cannot be merged into crm.customer: the column email" in engine.tail()
    assert main(["check", str(shops.config)]) != 0
    assert "cannot be merged" in capsys.readouterr().out.replace("\n", " ")
