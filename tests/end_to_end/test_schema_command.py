"""
``tailrace schema``: the schemas of both sides are compared, and the target's is completed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cli.main import main
from tests.support.engine_process import write_config
from tests.support.policy_mirror import Mirror

TABLES = (
    """CREATE TABLE customer (
  id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY COMMENT 'of the shop',
  name VARCHAR(40) NOT NULL DEFAULT 'nobody', KEY by_name (name)) COMMENT = 'it''s ours'""",
    """CREATE TABLE purchase (
  id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, customer INT UNSIGNED,
  amount DECIMAL(10,2) NOT NULL, placed TIMESTAMP(3) DEFAULT CURRENT_TIMESTAMP(3),
  noted DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  code VARCHAR(20) DEFAULT 'new', tag TEXT, UNIQUE KEY (code, customer), KEY tags (tag(5)),
  KEY (amount), CONSTRAINT positive CHECK (amount > 0 AND amount < 100000.5),
  CONSTRAINT upper_code CHECK (code = UPPER(code)),
  CONSTRAINT buyer FOREIGN KEY (customer) REFERENCES customer (id) ON DELETE CASCADE)""",
    "CREATE TABLE seen (id SMALLINT AUTO_INCREMENT PRIMARY KEY)",
    "CREATE VIEW rich AS SELECT * FROM purchase WHERE amount > 1000",
    "CREATE TRIGGER before_it BEFORE INSERT ON customer FOR EACH ROW SET NEW.name = NEW.name",
    "CREATE FUNCTION two() RETURNS INT DETERMINISTIC RETURN 2",
    "INSERT INTO customer (name) VALUES ('one'), ('two'), ('three')",
    "INSERT INTO purchase (customer, amount, code) VALUES (1, 5, 'A'), (2, 6.5, 'B')",
)
#: What a mirror lacks: kind and name, and whether a statement makes it.
LACKS = {
    ("customer", "identity", "id"): True,
    ("customer", "comment", ""): True,
    ("customer", "comment", "id"): True,
    ("customer", "trigger", "before_it"): False,
    ("purchase", "identity", "id"): True,
    ("purchase", "default", "placed"): True,
    ("purchase", "default", "noted"): True,
    ("purchase", "check", "positive"): True,
    ("purchase", "check", "upper_code"): False,
    ("purchase", "foreign key", "buyer"): True,
    ("purchase", "trigger", "noted_on_update"): False,
    ("seen", "identity", "id"): True,
    ("", "view", "rich"): False,
    ("", "function", "two"): False,
}
DAMAGE = (
    """ALTER TABLE purchase ALTER COLUMN code SET DEFAULT 'old', DROP CONSTRAINT buyer,
  DROP CONSTRAINT positive, ADD COLUMN more INT, ALTER COLUMN amount TYPE numeric(12,2),
  ALTER COLUMN amount DROP NOT NULL""",
    """ALTER TABLE purchase ADD CONSTRAINT buyer FOREIGN KEY (customer) REFERENCES customer (id)
  ON DELETE CASCADE NOT VALID""",
    "COMMENT ON TABLE customer IS 'theirs'",
    "ALTER TABLE customer ALTER COLUMN name DROP DEFAULT",
    "SELECT setval(pg_get_serial_sequence('customer', 'id'), 2)",
)
Run = Callable[..., Any]


@pytest.fixture
def run(mirror: Mirror, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on the mirror of the tables; returns what it prints as JSON."""
    mirror.execute(*TABLES)
    mirror.run()
    tables = f"{mirror.database}.*"
    config = write_config(tmp_path, mirror.server.url, mirror.target_url, tables)

    def command(*words: str, status: int) -> Any:
        capfd.readouterr()
        found = main(["schema", words[0], str(config), "--json", *words[1:]])
        printed = capfd.readouterr()
        assert found == status, printed
        return json.loads(printed.out) if "--dry-run" not in words else printed.out

    return command


def lacks(found: dict[str, Any], mirror: Mirror) -> dict[tuple[str, str, str], bool]:
    """The differences without those that are notes, and without indexes."""
    return {
        (it["table"].removeprefix(mirror.database)[1:], it["kind"], it["name"]): bool(
            it["statements"]
        )
        for it in found["differences"]
        if not it["note"] and it["kind"] != "index"
    }


def test_the_target_is_completed(mirror: Mirror, run: Run) -> None:
    """GIVEN a mirror WHEN its schema is compared and completed THEN each difference is found, and
    what can be created is created exactly."""
    found = run("diff", status=3)
    assert found["tables"] == 3
    assert lacks(found, mirror) == LACKS
    (prefix,) = [it for it in found["differences"] if it["kind"] == "index"]
    assert "tags" in prefix["name"]
    assert not prefix["statements"]

    printed = run("apply", "--dry-run", status=0)
    assert "FOREIGN KEY" not in printed
    assert run("diff", status=3) == found  # nothing is changed
    assert [it["error"] for it in run("apply", "--yes", status=0)] == [""] * 8
    left = {place: makes for place, makes in LACKS.items() if not makes or "foreign" in place[1]}
    assert lacks(run("diff", status=3), mirror) == left
    (created,) = run("apply", "--yes", "--foreign-keys", status=0)
    assert created["kind"] == "foreign key"
    left = {place: makes for place, makes in LACKS.items() if not makes}
    assert lacks(run("diff", status=3), mirror) == left
    mirror.execute(
        "ALTER TABLE purchase MODIFY id BIGINT AUTO_INCREMENT",
        "ALTER TABLE seen MODIFY id INT AUTO_INCREMENT",
        "INSERT INTO seen VALUES (1)",
    )
    mirror.run(stops=True)  # the engine alters completed tables in place
    assert lacks(run("diff", status=3), mirror) == left | {("seen", "sequence", "id"): True}
    target = mirror.target
    target.execute(f'SET search_path = "{mirror.database}"')  # type: ignore[call-overload]
    row = target.execute(
        "INSERT INTO purchase (customer, amount) VALUES (1, 7) RETURNING id, code,"
        " placed BETWEEN now() - interval '1 s' AND now() + interval '1 s', noted IS NOT NULL"
    ).fetchone()
    assert row == (3, "new", True, True)
    assert target.execute("INSERT INTO customer DEFAULT VALUES RETURNING id").fetchone() == (4,)
    repair(mirror, run)


def repair(mirror: Mirror, run: Run) -> None:
    """Damage the target's schema: what differs is found, and what can be created is created."""
    target = mirror.target
    index = target.execute(
        "SELECT indexrelid::regclass::text FROM pg_index"
        " WHERE indrelid = 'purchase'::regclass AND NOT indisunique"
    ).fetchone()
    assert index is not None
    for statement in DAMAGE:
        target.execute(statement)  # type: ignore[call-overload]
    target.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", index)
    left = {place: makes for place, makes in LACKS.items() if not makes}
    states = {
        (it["table"].rpartition(".")[2], it["kind"], it["name"]): it["state"]
        for it in run("diff", status=3)["differences"]
        if it["state"] != "missing" or it["kind"] in ("check", "not null", "default")
    }
    assert states == {
        ("purchase", "index", index[0]): "unfinished",
        ("purchase", "default", "code"): "different",
        ("customer", "default", "name"): "missing",
        ("purchase", "check", "positive"): "missing",
        ("purchase", "check", "upper_code"): "missing",
        ("purchase", "foreign key", "buyer"): "unfinished",
        ("purchase", "column", "more"): "extra",
        ("purchase", "column", "amount"): "different",
        ("purchase", "not null", "amount"): "missing",
        ("customer", "comment", ""): "different",
        ("customer", "sequence", "id"): "different",
        ("seen", "sequence", "id"): "different",
    }
    run("apply", "--yes", "--foreign-keys", status=0)
    left |= {
        ("purchase", "column", "more"): False,
        ("purchase", "column", "amount"): False,
        ("purchase", "not null", "amount"): False,
    }
    assert lacks(run("diff", status=3), mirror) == left
