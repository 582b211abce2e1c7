"""
Which texts a foreign key takes for equal, compared with the servers.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

import pytest

from engine.databases.mysql.types import neutral_type
from engine.schema import Column
from engine.toolkit.cascades import fold
from sources.mysql.binlog.equality import (
    CASE_INSENSITIVE,
    CASE_SENSITIVE,
    FOLDED_CHARSETS,
    Folding,
    comparison,
)
from tests.support.servers import AnyServer, connect_mysql

ASCII = "".join(map(chr, range(32, 127)))


def _column(type: str) -> Column:
    return Column("c", neutral_type(type), type)


def _pairs() -> list[tuple[str, str]]:
    """Each pair of characters, and random texts with one that is nearly the same."""
    made = [(one, other) for one in ASCII for other in ASCII if one <= other]
    chosen = random.Random(5)
    for _ in range(1500):
        alphabet = chosen.choice([ASCII, string.ascii_letters, "abcdefghABCH -", "aAeEoOsS '"])
        text = "".join(chosen.choices(alphabet, k=chosen.randint(0, 9)))
        other = "".join(
            chosen.choice([it, it, it.swapcase(), it.lower(), chosen.choice(alphabet)])
            for it in text
        )
        made.append((text, other + chosen.choice(["", "", " ", "  ", "x"])))
    return made


def test_folded_texts_are_those_that_the_server_takes_for_equal(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    """GIVEN each collation that is folded WHEN texts of printable ASCII characters are compared in
    columns with it THEN the server and the folding agree."""
    wanted = {
        f"{charset}_{name}"
        for charset in FOLDED_CHARSETS
        for name in CASE_INSENSITIVE + CASE_SENSITIVE
    }
    pairs, tested = _pairs(), 0
    database = fresh_mysql_database(mysql_family)
    with connect_mysql(mysql_family, database) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW COLLATION")
        there = {str(row[0]).replace("utf8_", "utf8mb3_") for row in cursor.fetchall()}
        if any(name.startswith("uca1400") for name in there):
            there |= {f"{set}_{it}" for set in ("utf8mb3", "utf8mb4") for it in there}
        cursor.execute("CREATE TEMPORARY TABLE pairs (n INT, a VARCHAR(20), b VARCHAR(20))")
        cursor.executemany(
            "INSERT INTO pairs VALUES (%s, %s, %s)",
            [(n, *pair) for n, pair in enumerate(pairs)],
        )
        for collation in sorted(wanted & there):
            charset = collation.partition("_")[0]
            how = comparison(
                *[_column(f"varchar(20) character set {charset} collate {collation}")] * 2
            )
            cursor.execute(
                f"SELECT n FROM pairs WHERE CONVERT(a USING {charset}) COLLATE {collation}"
                f" = CONVERT(b USING {charset})"
            )
            found = {n for (n,) in cursor.fetchall()}
            assert how is None or isinstance(how, Folding)
            expected = {
                n
                for n, (one, other) in enumerate(pairs)
                if (one == other if how is None else fold(one, how) == fold(other, how))
            }
            differ = [(collation, pairs[n]) for n in sorted(found ^ expected)]
            assert not differ[:5]
            tested += 1
    assert tested > 15


@pytest.mark.parametrize(
    ("type", "expected"),
    [
        ("varchar(9) character set utf8mb4 collate utf8mb4_general_ci", Folding(True, True)),
        ("char(36) character set ascii collate ascii_general_ci", Folding(True, False)),
        ("varchar(9) character set utf8mb4 collate utf8mb4_0900_ai_ci", Folding(True, False)),
        ("varchar(9) character set latin1 collate latin1_bin", Folding(False, True)),
        ("varchar(9) character set utf8mb4 collate utf8mb4_0900_bin", None),
        ("date", None),
        ("enum('a','b')", None),
    ],
)
def test_comparison(type: str, expected: Folding | None) -> None:
    assert comparison(_column(type), _column(type)) == expected


@pytest.mark.parametrize(
    ("mine", "its"),
    [
        ("varchar(9) character set utf8mb4 collate utf8mb4_danish_ci",) * 2,
        ("varchar(9) character set cp1251 collate cp1251_general_ci",) * 2,
        ("datetime(3)", "datetime(6)"),
        ("enum('a','b')", "enum('b','a')"),
        ("enum('a','')", "enum('a','')"),
    ],
)
def test_comparisons_that_are_not_known(mine: str, its: str) -> None:
    assert isinstance(comparison(_column(mine), _column(its)), str)
