"""
Tables that cannot be followed, and names that the target cannot have.
"""

from __future__ import annotations

import pytest

from engine.errors import SchemaError
from tests.support.policy_mirror import Mirror

REFUSED = "(id INT PRIMARY KEY, e ENUM(x'ff', 'b') CHARACTER SET binary)"


def test_a_refused_table_does_not_stop_the_others(mirror: Mirror) -> None:
    """GIVEN a table with a label that is no text WHEN it is discovered at the first start, or
    created later THEN it is quarantined with its reason, and the others are followed."""
    mirror.execute(
        f"CREATE TABLE first {REFUSED}",
        "CREATE TABLE good (id INT PRIMARY KEY, a INT)",
        "INSERT INTO good VALUES (1, 1)",
    )
    with pytest.raises(SchemaError, match=r"the column e: .*\.first"):
        mirror.run()
    for number in (2, 3, 4):
        status = mirror.run(on_error="quarantine")
        mirror.execute(f"INSERT INTO good VALUES ({number}, 1)")
        if number == 3:
            mirror.execute(f"CREATE TABLE later {REFUSED}", "INSERT INTO later VALUES (1, 'b')")
    status = mirror.run(on_error="quarantine")
    assert {it.table.rpartition(".")[2]: it.state for it in status.tables} == {
        "first": "quarantined",
        "good": "live",
        "later": "quarantined",
    }
    assert all("the column e: " in it.reason for it in status.tables if it.state == "quarantined")
    assert len(mirror.rows("good")) == 4


def test_columns_named_as_those_of_the_system(mirror: Mirror) -> None:
    columns = ("ctid", "tableoid", "xmin", "xmax", "cmin", "cmax")
    mirror.execute(
        f"CREATE TABLE t (id INT, {' INT, '.join(columns)} INT, PRIMARY KEY (id, ctid))",
        f"CREATE TABLE keyless ({' INT, '.join(columns)} INT)",
        "INSERT INTO t VALUES (1, 1, 1, 1, 1, 1, 1), (2, 2, 2, 2, 2, 2, 2)",
        "INSERT INTO keyless VALUES (1, 1, 1, 1, 1, 1), (2, 2, 2, 2, 2, 2)",
    )
    mirror.run(stops=True)
    mirror.execute(
        "UPDATE t SET xmin = 7, ctid = 8 WHERE id = 1",
        "UPDATE keyless SET xmin = 7 WHERE ctid = 1",
        "DELETE FROM keyless WHERE ctid = 2",
        "ALTER TABLE t RENAME COLUMN xmax TO more, ADD KEY (cmin)",
        "ALTER TABLE keyless DROP cmax, ADD cmax VARCHAR(9)",
        "INSERT INTO t VALUES (3, 3, 3, 3, 3, 3, 3)",
    )
    mirror.run()
    assert [row[0] for row in mirror.rows("t", "id, more")] == ["1", "2", "3"]
    assert "more" in mirror.types("t")
    assert mirror.verify().equal
