"""
How a source reads values: the policies of ``[source.values]`` from end to end.
"""

from __future__ import annotations

import pytest

from engine.errors import DecodeError, UnloggedChange
from engine.toolkit.policies import ReadPolicies
from tests.support.policy_mirror import Mirror


def test_invalid_text_by_every_path(mirror: Mirror) -> None:
    """GIVEN bytes without a character in text, in a key and in a keyless table WHEN they are
    backfilled in small chunks, inserted, updated and deleted THEN each follows its policy."""
    columns = "a VARCHAR(20), b TEXT, c VARCHAR(20) CHARACTER SET sjis"
    row = "_cp1251 0x619862, _cp1251 0x989898, _sjis 0x8740"
    mirror.execute(
        f"CREATE TABLE keyed (id INT PRIMARY KEY, {columns}) CHARACTER SET cp1251",
        f"CREATE TABLE keyless (id INT, {columns}) CHARACTER SET cp1251",
        "CREATE TABLE keys_ (k VARCHAR(9), n INT, x INT, PRIMARY KEY (k, n)) CHARACTER SET cp1251",
        f"INSERT INTO keyed VALUES (1, {row}), (2, 'x?y', NULL, ''), (3, 'z', '', 'z')",
        f"INSERT INTO keyless VALUES (1, {row}), (2, 'x?y', NULL, '')",
        *(
            f"INSERT INTO keys_ VALUES (_cp1251 0x{key}, {n}, 1)"
            for n in range(2)
            for key in ("98", "61", "6198", "9861", "9898", "989861", "619861", "7A")
        ),
    )
    reads = ReadPolicies(columns={"*.*.b": {"invalid_text": "escape"}})
    mirror.run(reads=reads)
    expected = [
        ("1", "a\ufffdb", "\\x98" * 3, "\ufffd"),
        ("2", "x?y", None, ""),
        ("3", "z", "", "z"),
    ]
    assert mirror.rows("keyed") == expected
    assert mirror.rows("keyless") == expected[:2]
    assert mirror.replaced["a", "invalid_text"] == mirror.replaced["c", "invalid_text"] == 2
    assert mirror.verify(reads=reads).equal
    mirror.execute(
        f"INSERT INTO keyed VALUES (11, {row})",
        "UPDATE keyed SET c = 'é' WHERE id = 3",
        "UPDATE keyless SET c = _sjis 0x8741 WHERE id = 1",
        "DELETE FROM keyless WHERE id = 2",
        "UPDATE keys_ SET x = 7 WHERE k = _cp1251 0x98",
        "UPDATE keys_ SET k = _cp1251 0x7A98 WHERE k = _cp1251 0x6198 AND n = 1",
        "DELETE FROM keys_ WHERE k = _cp1251 0x9898",
        "INSERT INTO keys_ VALUES (_cp1251 0x989898, 9, 9)",
    )
    mirror.run(reads=reads)
    assert mirror.rows("keyless") == [("1", *expected[0][1:3], "\ufffd")]
    assert (chr(0xF0098) * 3, "9", "9") in mirror.rows("keys_")
    report = mirror.verify(reads=reads)
    assert report.equal, report
    mirror.target.execute(f"UPDATE \"{mirror.database}\".keyed SET a = 'a?b' WHERE id = 1")
    assert [table.differing for table in mirror.verify(reads=reads).tables] == [1, 0, 0]
    strict = ReadPolicies(columns={"*.keyed.a": {"invalid_text": "error"}})
    mirror.execute(f"INSERT INTO keyed VALUES (12, {row})")
    with pytest.raises(DecodeError, match=r"column a holds bytes that are not valid cp1251"):
        mirror.run(reads=strict)


def test_a_changed_policy_reads_the_table_again(mirror: Mirror) -> None:
    """GIVEN texts of which one byte is no character WHEN the policy is changed THEN the rows of
    the tables that it decides about are read again, and the target's columns can hold them."""
    columns = "a VARCHAR(3), b VARCHAR(3) CHARACTER SET latin1"
    mirror.execute(
        f"CREATE TABLE keyed (id INT PRIMARY KEY, {columns}) CHARACTER SET cp1251",
        f"CREATE TABLE keyless (id INT, {columns}) CHARACTER SET cp1251",
        "CREATE TABLE keys_ (k VARCHAR(3) PRIMARY KEY) CHARACTER SET cp1251",
        "CREATE TABLE other (id INT PRIMARY KEY, b VARCHAR(3) CHARACTER SET latin1)",
        *(f"INSERT INTO {name} VALUES (1, _cp1251 0x989898, 'x')" for name in ("keyed", "keyless")),
        "INSERT INTO keys_ VALUES (_cp1251 0x989898)",
    )
    escaped = ReadPolicies(invalid_text="escape")
    for reads, text, size in (
        (ReadPolicies(), "\ufffd" * 3, 3),
        (escaped, r"\x98" * 3, 12),
        (ReadPolicies(columns={"*.*.b": {"invalid_text": "escape"}}), "\ufffd" * 3, 3),
        (escaped, r"\x98" * 3, 12),
    ):
        mirror.run(reads=reads)
        assert mirror.rows("keyed") == mirror.rows("keyless") == [("1", text, "x")]
        assert mirror.types("keyed")["a"] == f"character varying({size})"
        assert mirror.types("keyed")["b"] == "character varying(3)"
        assert mirror.types("keys_")["k"] == "character varying(3)"
        assert mirror.verify(reads=reads).equal
    mirror.execute("UPDATE keyless SET b = 'y'", "INSERT INTO keyed VALUES (2, NULL, NULL)")
    mirror.run(reads=escaped, stops=True)
    assert mirror.rows("keyless") == [("1", r"\x98" * 3, "y")]
    with pytest.raises(UnloggedChange, match=r"column a is replace, and was escape when the"):
        mirror.run(stops=True)


def test_error_has_changed_no_row(mirror: Mirror) -> None:
    mirror.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(3)) CHARACTER SET cp1251",
        "INSERT INTO t VALUES (1, 'x')",
    )
    strict = ReadPolicies(invalid_text="error")
    mirror.run(reads=strict)
    mirror.execute("INSERT INTO t VALUES (2, _cp1251 0x989898)")
    with pytest.raises(DecodeError):
        mirror.run(reads=strict)
    escaped = ReadPolicies(invalid_text="escape")
    mirror.run(reads=escaped, stops=True)
    assert mirror.rows("t") == [("1", "x"), ("2", r"\x98" * 3)]
    for changed in (strict, ReadPolicies()):
        with pytest.raises(UnloggedChange, match=r"invalid_text of column a is .* was escape"):
            mirror.run(reads=changed, stops=True)
    mirror.execute("ALTER TABLE t RENAME COLUMN a TO b")
    named = ReadPolicies(columns={"*.t.a": {"invalid_text": "escape"}})
    with pytest.raises(UnloggedChange, match=r"column b is replace, and was escape before it was"):
        mirror.run(reads=named, stops=True)
    mirror.run(reads=named)
    assert mirror.rows("t") == [("1", "x"), ("2", "\ufffd" * 3)]
    assert mirror.verify(reads=named).equal


def test_the_default_of_a_new_column_is_read_with_its_charset(mirror: Mirror) -> None:
    """GIVEN latin1 columns that hold UTF-8 WHEN a column with a default is added THEN existing rows
    have the text that the bytes of the default mean."""
    reads = ReadPolicies(charset="utf8mb4")
    latin1 = "VARCHAR(9) CHARACTER SET latin1"
    mirror.execute(f"CREATE TABLE t (id INT PRIMARY KEY, a {latin1} DEFAULT 'Ã¶')")
    mirror.execute("INSERT INTO t (id) VALUES (1)")
    mirror.run(reads=reads)
    mirror.execute(
        f"ALTER TABLE t ADD b {latin1} DEFAULT 'Ã¼ x', ADD c {latin1} NOT NULL DEFAULT 'ä'",
        f"ALTER TABLE t MODIFY b {latin1} DEFAULT 'Ã¤'",
        "INSERT INTO t (id) VALUES (2)",
    )
    mirror.run(reads=reads, stops=True)
    assert mirror.rows("t") == [("1", "ö", "ü x", "\ufffd"), ("2", "ö", "ä", "\ufffd")]
    assert mirror.verify(reads=reads).equal
    mirror.target.execute(f'INSERT INTO "{mirror.database}".t (id) VALUES (3)')
    assert mirror.rows("t")[2] == ("3", "ö", "ä", "\ufffd")
    strict = ReadPolicies(charset="utf8mb4", invalid_text="error")
    mirror.execute("DROP TABLE t", f"CREATE TABLE u (id INT PRIMARY KEY, a {latin1})")
    mirror.execute("INSERT INTO u (id) VALUES (1)")
    mirror.run(reads=strict)
    mirror.execute(f"ALTER TABLE u ADD b {latin1} DEFAULT 'ä'")
    with pytest.raises(DecodeError, match="column b holds bytes"):
        mirror.run(reads=strict)
