"""
``tailrace schema apply`` with what is legal on a source and needs care in PostgreSQL.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli.main import main
from tests.support.engine_process import write_config
from tests.support.policy_mirror import Mirror

pytestmark = pytest.mark.slow

TABLES = (
    "CREATE TABLE p (id INT PRIMARY KEY, n INT, KEY (n))",
    """CREATE TABLE named (id INT PRIMARY KEY, p INT, v INT,
  CONSTRAINT named_pkey CHECK (v > 0), CONSTRAINT named_id_not_null CHECK (v < 9),
  CONSTRAINT same FOREIGN KEY (p) REFERENCES p (id), CONSTRAINT {same} CHECK (p > 0))""",
    """CREATE TABLE loose (id INT PRIMARY KEY, n INT,
  CONSTRAINT by_n FOREIGN KEY (n) REFERENCES p (n))""",
    "CREATE TABLE deleted (id INT AUTO_INCREMENT PRIMARY KEY, t TEXT DEFAULT ('it''s é'))",
    "CREATE TABLE full (id INT AUTO_INCREMENT PRIMARY KEY)",
    "CREATE TABLE beyond (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY)",
    "INSERT INTO p VALUES (1, 1)",
    "INSERT INTO named VALUES (1, 1, 1)",
    "INSERT INTO loose VALUES (1, 1)",
    "INSERT INTO deleted (id) VALUES (5000)",
    "DELETE FROM deleted",
    "INSERT INTO full VALUES (2147483647)",
    "INSERT INTO beyond VALUES (18446744073709551610)",
)


def test_apply_ends(mirror: Mirror, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """GIVEN a mirror WHEN the schema is applied THEN no statement is refused and none is left, and
    what a person has to do is named. Numbers of deleted rows are not given again."""
    mariadb = mirror.server.kind == "mariadb"
    if not mariadb:
        mirror.execute("SET SESSION restrict_fk_on_non_standard_key = OFF")
    # MariaDB has one name space for both, too.
    mirror.execute(*(it.format(same="other" if mariadb else "same") for it in TABLES))
    mirror.run()
    config = write_config(tmp_path, mirror.server.url, mirror.target_url, f"{mirror.database}.*")

    def schema(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        status = main(["schema", words[0], str(config), "--json", *words[1:]])
        return status, capfd.readouterr().out

    status, printed = schema("apply", "--yes")
    assert status == 0, printed
    status, printed = schema("apply", "--yes", "--foreign-keys")
    assert status == 0, printed
    left = json.loads(schema("diff")[1])["differences"]
    assert [(it["kind"], it["name"], it["statements"]) for it in left if not it["note"]] == [
        ("sequence", "id", []),
        ("foreign key", "by_n", []),
    ]
    insert = f'INSERT INTO "{mirror.database}".deleted DEFAULT VALUES RETURNING id, t'
    assert mirror.target.execute(insert).fetchone() == (5001, "it's é")  # type: ignore[call-overload]
