"""
A change through a MERGE table is logged under its name, and changes one of the tables it joins.
"""

from __future__ import annotations

from tests.support.policy_mirror import Mirror

COLUMNS = "id INT NOT NULL, a VARCHAR(9), KEY (id)"


def test_changes_through_a_merge_table(mirror: Mirror) -> None:
    """GIVEN MyISAM tables that a MERGE table joins WHEN it is changed, also one that is created in
    the log THEN the tables are read again, and the MERGE tables are quarantined."""
    mirror.execute(
        *(f"CREATE TABLE {name} ({COLUMNS}) ENGINE = MyISAM" for name in ("one", "two")),
        f"CREATE TABLE `all` ({COLUMNS}) ENGINE = MERGE UNION = (one, two) INSERT_METHOD = LAST",
        "INSERT INTO one VALUES (1, 'x'), (2, 'x')",
    )
    mirror.run(on_error="quarantine")
    schema = mirror.database
    for changes in (
        ["INSERT INTO `all` VALUES (3, 'y')", "UPDATE `all` SET a = 'z' WHERE id IN (1, 3)"],
        [
            f"CREATE TABLE later ({COLUMNS}) ENGINE = MRG_MyISAM UNION = (`{schema}`.`one`)",
            "DELETE FROM later WHERE id = 1",
        ],
        ["ALTER TABLE later UNION = (one, two)", "UPDATE later SET a = 'w' WHERE id = 3"],
        ["RENAME TABLE later TO latest", "UPDATE latest SET a = 'v'"],
        ["DROP TABLE latest", "TRUNCATE TABLE `all`", "INSERT INTO two VALUES (5, '5')"],
    ):
        mirror.execute(*changes)
        status = mirror.run(on_error="quarantine")
        assert mirror.verify().equal, changes
    states = {it.table.partition(".")[2]: it.state for it in status.tables}
    assert (states["one"], states["two"], states["all"]) == ("live", "live", "quarantined")
    assert mirror.rows("one") == []
    assert mirror.rows("two") == [("5", "5")]
