"""
Mapped tables from end to end: in the backfill, the stream, schema changes and ``tailrace verify``.

What the target must have is asked of the source, as a SELECT with the same expressions.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.cli.main import main
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.shops import catch_up

Fresh = Callable[[AnyServer], str]

KEY = "a secret"
TABLES = """
CREATE TABLE orders (id INT PRIMARY KEY, customer INT NOT NULL, email VARCHAR(60),
  price DECIMAL(10,2), quantity INT, state VARCHAR(10) NOT NULL, note TEXT, made DATETIME(3),
  KEY (customer), UNIQUE (email, id));
CREATE TABLE people (code VARCHAR(20) PRIMARY KEY, nm VARCHAR(30), phone VARCHAR(30), secret TEXT,
  born DATE);
CREATE TABLE `lines` (a INT, b VARCHAR(10), c INT);
CREATE TABLE plain (id INT PRIMARY KEY, x INT)
"""
RULES = """
[mask]
key = "a secret"
[mapping."{0}.orders"]
to = "crm_{0}.order"
select = "id, customer AS client, lower(email) AS email, email AS hashed, \
price * quantity AS total, concat(state, '/', id) AS label, state, year(made) AS made_in, \
'shop' AS origin"
where = "state <> 'draft' AND price >= 0"
mask = {{ hashed = "hash" }}
[mapping."{0}.people"]
select = "*, left(nm, 1) AS initial"
rename = {{ nm = "full_name" }}
drop = ["secret"]
mask = {{ phone = "digits", code = "hash" }}
[mapping."{0}.lines"]
to = "crm_{0}.*"
drop = ["b"]
where = "a > 0"
[mapping."{0}.plain"]
types = {{ x = "decimal(20,0)" }}
assert = ["x >= 0"]
"""
#: What the target must have: the query on the source, and that on the target.
EXPECTED = {
    "orders": (
        """SELECT id, customer, LOWER(email), email, price * quantity, CONCAT(state, '/', id),
        state, YEAR(made), 'shop' FROM orders WHERE state <> 'draft' AND price >= 0""",
        """SELECT id, client, email, hashed, total, label, state, made_in, origin
        FROM "crm_{0}"."order" """,
    ),
    "people": (
        "SELECT code, nm, born, LEFT(nm, 1) FROM people",
        'SELECT code, full_name, born, initial FROM "{0}".people',
    ),
    "lines": ("SELECT a, c FROM `lines` WHERE a > 0", 'SELECT a, c FROM "crm_{0}".lines'),
    "plain": ("SELECT * FROM plain", 'SELECT * FROM "{0}".plain'),
}
HASHED = {"orders": 3, "people": 0}


class MappedShop:
    """A database whose tables are mapped, with a connection to each side."""

    def __init__(self, server: AnyServer, database: str, target: str, folder: Path) -> None:
        self.database = database
        self.source = connect_mysql(server, database)
        self.target = psycopg.connect(target, autocommit=True)
        self.folder, self.urls = folder, (server.url, target)
        self.configure(RULES)

    def configure(self, rules: str) -> None:
        """Write the configuration."""
        more = f"[backfill]\nchunk_rows = 2\n{rules.format(self.database)}"
        self.config = write_config(self.folder, *self.urls, f"{self.database}.*", more=more)

    def execute(self, *statements: str) -> None:
        with self.source.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        self.source.commit()

    def rows(self, name: str) -> tuple[Counter[Any], Counter[Any]]:
        """The rows that the target must have, and those that it has."""
        query, mapped = EXPECTED[name]
        with self.source.cursor() as cursor:
            cursor.execute("SET SESSION time_zone = '+00:00'")
            cursor.execute(query)
            expected = [list(row) for row in cursor.fetchall()]
        self.source.commit()
        for row in expected:
            place = HASHED.get(name)
            if place is not None and row[place] is not None:
                row[place] = hmac.new(KEY.encode(), row[place].encode(), sha256).hexdigest()
        found = self.target.execute(mapped.format(self.database)).fetchall()  # type: ignore[call-overload]
        return Counter(map(_row, expected)), Counter(map(_row, found))

    def check(self) -> None:
        """Run the pipeline, and fail unless the target has what it must have."""
        catch_up(self.config)
        for name in EXPECTED:
            expected, found = self.rows(name)
            assert expected == found, name
        assert main(["verify", str(self.config)]) == 0

    def close(self) -> None:
        self.source.close()
        self.target.close()


def _row(values: Any) -> tuple[str | None, ...]:
    return tuple(None if value is None else str(value) for value in values)


@pytest.fixture(params=["mysql", "mariadb_11", pytest.param("mariadb_10", marks=pytest.mark.slow)])
def shop(
    request: pytest.FixtureRequest,
    fresh_mysql_database: Fresh,
    target_database: str,
    tmp_path: Path,
) -> Iterator[MappedShop]:
    server: AnyServer = request.getfixturevalue(request.param)
    made = MappedShop(server, fresh_mysql_database(server), target_database, tmp_path)
    try:
        fill(made)
        yield made
    finally:
        made.close()


def fill(made: MappedShop) -> None:
    made.execute(
        *TABLES.split(";"),
        "INSERT INTO orders VALUES (1, 10, 'Éa@B.c', 1.50, 3, 'new', NULL, '2024-01-01 10:00:00'),"
        " (2, 10, NULL, 2.25, NULL, 'draft', 'x', NULL), (3, 11, 'x@y', -1, 1, 'paid', '', NULL),"
        " (4, 12, 'Z@Z', 99999999.99, 100000, 'paid', NULL, '1999-12-31 23:59:59.999'),"
        " (5, 12, '', NULL, 1, 'paid', NULL, NULL)",
        "INSERT INTO people VALUES ('A-1', 'Ann', '+41 79 123 45 67', 's', '1980-02-29'),"
        " ('B', NULL, NULL, NULL, NULL), ('C', 'Çelik', '0', 't', '2001-01-01')",
        "INSERT INTO `lines` VALUES (1, 'x', 2), (1, 'y', 2), (0, 'z', 3), (NULL, NULL, NULL)",
        "INSERT INTO plain VALUES (1, 1)",
    )


def test_backfill_stream_and_schema_changes(shop: MappedShop) -> None:
    """GIVEN mapped tables WHEN they are backfilled, written to and altered THEN the target has what
    the source's own expressions give, and `verify` finds no difference."""
    shop.check()
    phones = shop.target.execute(f'SELECT phone FROM "{shop.database}".people').fetchall()
    assert ("+41 79 123 45 67",) not in phones
    shop.execute(
        "UPDATE orders SET price = 7, email = 'New@X' WHERE id = 1",  # stays
        "UPDATE orders SET state = 'sent' WHERE id = 2",  # comes
        "UPDATE orders SET state = 'draft' WHERE id = 4",  # leaves
        "UPDATE orders SET note = 'hidden' WHERE id IN (3, 5)",  # was never there
        "UPDATE orders SET id = 50, price = 3 WHERE id = 5",  # comes with another key
        "INSERT INTO orders SELECT id + 100, customer, email, price, quantity, state, note, made"
        " FROM orders",
        "UPDATE orders SET id = id + 1000 WHERE id > 100",
        "DELETE FROM orders WHERE id IN (3, 1101)",
        "UPDATE people SET code = 'A-2', phone = '12' WHERE code = 'A-1'",
        "INSERT INTO people VALUES ('D', 'Dee', '5', NULL, NULL)",
        "DELETE FROM people WHERE code = 'B'",
        "UPDATE `lines` SET a = 5 WHERE b = 'z'",
        "UPDATE `lines` SET a = -5 WHERE b = 'y'",
        "DELETE FROM `lines` WHERE b = 'x'",
        "UPDATE plain SET x = 2",
        "INSERT INTO plain VALUES (3, 3), (4, 4), (5, NULL)",
        "UPDATE plain SET id = 30 WHERE id = 3",
        "DELETE FROM plain WHERE id = 4",
    )
    shop.check()
    shop.execute(
        "ALTER TABLE orders ADD COLUMN extra INT DEFAULT 5, DROP COLUMN note",
        "INSERT INTO orders VALUES (60, 1, 'e', 1, 1, 'new', '2024-01-01', 7)",
        "ALTER TABLE people ADD COLUMN more INT DEFAULT 3 FIRST, RENAME COLUMN born TO birth,"
        " RENAME COLUMN secret TO hidden",
        "ALTER TABLE people RENAME COLUMN birth TO born, RENAME COLUMN hidden TO secret",
        "ALTER TABLE `lines` MODIFY b VARCHAR(20), ADD COLUMN d INT",
        "INSERT INTO `lines` VALUES (9, 'new', 9, 9)",
        "ALTER TABLE orders MODIFY price DECIMAL(12,3)",
        "INSERT INTO orders VALUES (61, 1, 'e', 1.125, 2, 'new', '2024-01-01', 7)",
        "ALTER TABLE people MODIFY phone VARCHAR(50), MODIFY nm VARCHAR(60)",
        "INSERT INTO people (code, nm, phone) VALUES ('E', 'Eve', '0123456789 0123456789 0123456')",
        "ALTER TABLE plain MODIFY x BIGINT, ADD COLUMN y INT DEFAULT 7",
        "INSERT INTO plain VALUES (6, 9223372036854775807, 8)",
    )
    shop.check()
    assert_report_hides_masked_values(shop)


def assert_report_hides_masked_values(shop: MappedShop) -> None:
    """A report has no value of a masked column, also if the target wrongly holds a plain one."""
    table = f'"crm_{shop.database}"."order"'
    shop.target.execute(f"UPDATE {table} SET hashed = 'plain@text', total = 8 WHERE id = 60")  # type: ignore[call-overload]
    shop.target.execute(f"DELETE FROM {table} WHERE id = 61")  # type: ignore[call-overload]
    page, data = shop.folder / "r.html", shop.folder / "r.json"
    words = ("--table", f"{shop.database}.orders", "--report", str(page), "--report", str(data))
    assert main(["verify", str(shop.config), *words]) == 3
    content = json.loads(data.read_text())["content"]
    (found,) = content["tables"]
    assert (found["masked"], found["changed"], found["missing"]) == (["hashed"], 1, 1)
    rows = {row["key"][0]: {it["column"]: it for it in row["values"]} for row in found["rows"]}
    for row in rows.values():
        nothing = {"column": "hashed", "source": None, "target": None, "hidden": True}
        assert row["hashed"] == nothing
    assert rows["60"].keys() == {"hashed", "total"}
    assert (rows["60"]["total"]["source"], rows["60"]["total"]["target"]) == ("1", "8")
    assert rows["61"]["client"]["source"] == "1"
    assert "plain@text" not in page.read_text() + data.read_text()
    reasons = {it["table"].rpartition(".")[2]: it["reason"] for it in content["not_compared"]}
    assert reasons == dict.fromkeys(("people", "lines", "plain"), "it was not asked for (--table)")


def test_a_changed_mapping(shop: MappedShop, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN mapped tables WHEN the mapping is changed, or removed THEN `check` names the tables
    that a run reads again, and the run does so; the others stay. A mistake changes nothing."""
    shop.check()
    stored = "SELECT source_name, state, cursor, rows FROM tailrace.table_progress ORDER BY 1"
    before = shop.target.execute(stored).fetchall()
    shop.configure(RULES.replace("customer AS client", "custmer AS client"))
    assert checked(shop, capsys) == (2, {("CK006", "mapping")})
    with EngineProcess(shop.config, "--until-caught-up") as engine:
        assert engine.wait() == 2
        assert "no column custmer" in engine.tail()
    assert shop.target.execute(stored).fetchall() == before
    shop.configure(RULES)
    assert checked(shop, capsys) == (0, set())
    shop.configure(RULES.replace("state <> 'draft'", "state = 'draft'"))
    assert checked(shop, capsys) == (0, {("CK007", f"{shop.database}.orders")})
    shop.configure(RULES.replace("state <> 'draft'", "state = 'draft'").replace("crm_", "new_"))
    shop.execute("INSERT INTO plain VALUES (2, 2)")
    catch_up(shop.config)
    query = f'SELECT id FROM "new_{shop.database}"."order"'
    assert shop.target.execute(query).fetchall() == [(2,)]  # type: ignore[call-overload]
    assert main(["verify", str(shop.config)]) == 0
    shop.configure("")
    catch_up(shop.config)
    query = f'SELECT count(*), min(note) FROM "{shop.database}".orders'
    assert shop.target.execute(query).fetchall() == [(5, "")]  # type: ignore[call-overload]
    assert main(["verify", str(shop.config)]) == 0


def checked(
    shop: MappedShop, capsys: pytest.CaptureFixture[str]
) -> tuple[int, set[tuple[str, str]]]:
    """The exit status of `check`, and its findings about edits."""
    capsys.readouterr()
    status = main(["check", str(shop.config), "--json"])
    found = [(it["code"], it["subject"]) for it in json.loads(capsys.readouterr().out)]
    return status, {it for it in found if it[0] in ("CK006", "CK007")}


def test_a_row_that_breaks_a_rule(shop: MappedShop) -> None:
    """GIVEN a rule WHEN a row breaks it THEN its table is quarantined, and the others go on."""
    shop.check()
    shop.execute(
        "INSERT INTO plain VALUES (2, -1)",
        "INSERT INTO orders VALUES (9, 1, 'x', 1, 1, 'new', NULL, NULL)",
    )
    with EngineProcess(shop.config, "--until-caught-up") as engine:
        assert engine.wait() == 3, engine.tail()
    expected, found = shop.rows("orders")
    assert expected == found
    (reason,) = shop.target.execute(
        "SELECT cause->>'reason' FROM tailrace.table_progress WHERE state = 'quarantined'"
    ).fetchall()
    assert "assert 'x >= 0'" in str(reason)


def test_foreign_keys_of_mapped_tables(
    mariadb_11: AnyServer,
    fresh_mysql_database: Fresh,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN mapped tables with foreign keys that act below the log WHEN their parents are deleted
    and changed THEN the target's rows follow; the table that cannot is backfilled again."""
    database = fresh_mysql_database(mariadb_11)
    rules = """
        [mapping."*.*"]
        to = "new_*.t_*"
        [mapping."*.parent"]
        rename = { id = "number" }
        [mapping."*.child"]
        rename = { id = "number", p = "up" }
        [mapping."*.grandchild"]
        select = "*, ifnull(c, 0) + 1 AS next"
    """
    config = write_config(tmp_path, mariadb_11.url, target_database, f"{database}.*", more=rules)
    references = "FOREIGN KEY ({0}) REFERENCES {1} (id) ON DELETE {2} ON UPDATE CASCADE"
    with (
        connect_mysql(mariadb_11, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        child, other = (references.format("p", "parent", it) for it in ("CASCADE", "SET NULL"))
        last = references.format("c", "child", "SET NULL")
        for statement in (
            "CREATE TABLE parent (id INT PRIMARY KEY)",
            f"CREATE TABLE child (id INT PRIMARY KEY, p INT, {child})",
            f"CREATE TABLE other (id INT PRIMARY KEY, p INT, {other})",
            f"CREATE TABLE grandchild (id INT PRIMARY KEY, c INT, {last})",
            "INSERT INTO parent VALUES (1), (2), (3)",
            "INSERT INTO child VALUES (1, 1), (2, 2), (3, 3)",
            "INSERT INTO other VALUES (1, 1), (2, 2), (3, 3)",
            "INSERT INTO grandchild VALUES (1, 1), (2, 2), (3, 3)",
        ):
            cursor.execute(statement)
        source.commit()
        catch_up(config)
        cursor.execute("UPDATE parent SET id = 20 WHERE id = 2")
        source.commit()
        catch_up(config)
        rows = f'SELECT number, up FROM "new_{database}".t_child ORDER BY 1'
        assert target.execute(rows.encode()).fetchall() == [(1, 1), (2, 20), (3, 3)]
        cursor.execute("DELETE FROM parent WHERE id = 1")
        source.commit()
        catch_up(config)
        assert target.execute(rows.encode()).fetchall() == [(2, 20), (3, 3)]
        rows = f'SELECT id, p FROM "new_{database}".t_other ORDER BY 1'
        assert target.execute(rows.encode()).fetchall() == [(1, None), (2, 20), (3, 3)]
        rows = f'SELECT id, c, next FROM "new_{database}".t_grandchild ORDER BY 1'
        assert target.execute(rows.encode()).fetchall() == [(1, None, 1), (2, 2, 3), (3, 3, 4)]
    check_comparison(config, database, target_database, capsys)


def check_comparison(
    config: Path, database: str, target_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables that are only renamed are compared by checksums, and a fault is found in them."""
    capsys.readouterr()
    methods = {table["table"]: table["method"] for table in verified(config, 0, capsys)}
    assert methods == {
        f"{database}.{name}": "rows" if name == "grandchild" else "checksums"
        for name in ("parent", "child", "other", "grandchild")
    }
    with psycopg.connect(target_url, autocommit=True) as target:
        target.execute(f'UPDATE "new_{database}".t_child SET up = 3 WHERE number = 2'.encode())
    (wrong,) = [table for table in verified(config, 3, capsys) if not table["equal"]]
    assert wrong["differences"] == [{"kind": "changed", "key": ["2"], "columns": ["up"]}]


def verified(config: Path, status: int, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The tables in the result of a comparison that ends with an exit status."""
    assert main(["verify", str(config), "--json"]) == status
    tables: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["tables"]
    return tables
