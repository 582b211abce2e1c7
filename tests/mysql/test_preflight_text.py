"""The checks of columns with characters."""

from __future__ import annotations

from engine.contract import Finding
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer

KANJI = "炻仼".encode("cp932").hex()


def test_columns_that_hold_other_bytes_are_named(
    mysql_family: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    database = fresh_mysql_database(mysql_family)
    writer = Writer(mysql_family, database)
    writer(
        "SET sql_mode = ''",
        "CREATE TABLE t (id INT PRIMARY KEY, plain VARCHAR(20) CHARACTER SET latin1,"
        " utf8 VARCHAR(999) CHARACTER SET latin1, cyrillic LONGTEXT CHARACTER SET cp1251,"
        " japanese VARCHAR(20) CHARACTER SET sjis, cut TEXT CHARACTER SET cp932,"
        " fine TEXT CHARACTER SET utf8mb4) ",
    )
    utf8 = "Größe".encode().hex()
    for id in range(3):
        writer(
            f"INSERT INTO t VALUES ({id}, 'Größe', CONVERT(x'{utf8}' USING latin1),"
            f" CONVERT(x'98' USING cp1251), CONVERT(x'{KANJI}' USING sjis),"
            f" CONCAT('a', REPEAT('あ', 300)), 'Größe')"
        )
    found = _about(mysql_family, database)
    writer.connection.close()
    key = f'[source.values.columns] "{database}.t.'
    assert [finding.message for finding in found] == [
        "the column utf8 has the charset latin1, and 3 of 3 sampled values hold UTF-8",
        "the column japanese has the charset sjis, and 3 of 3 sampled values hold other bytes",
        "the column cyrillic has the charset cp1251, and 3 of 3 sampled values hold other bytes",
    ]
    assert [finding.action.removeprefix(key).partition("}")[0] for finding in found] == [
        'utf8" = { charset = "utf8mb4" ',
        'japanese" = { charset = "cp932" ',
        'cyrillic" = { invalid_text = "escape" ',
    ]


def test_keys_that_ignore_case_are_named(
    mysql_family: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    database = fresh_mysql_database(mysql_family)
    writer = Writer(mysql_family, database)
    writer(
        "CREATE TABLE t (id VARCHAR(20) COLLATE utf8mb4_bin PRIMARY KEY,"
        " a VARCHAR(9) CHARACTER SET latin1 COLLATE latin1_general_cs UNIQUE,"
        " b VARCHAR(9) COLLATE utf8mb4_general_ci NOT NULL, c INT, UNIQUE (b, c), UNIQUE (c, b),"
        " d TEXT, KEY (d(5)))"
    )
    found = _about(mysql_family, database)
    writer.connection.close()
    assert [finding.message for finding in found] == [
        "the keys over b ignore case, accents, spaces at the end (utf8mb4_general_ci)",
    ]


def _about(server: AnyServer, database: str) -> list[Finding]:
    """The findings about the table ``t``, without those of its other properties."""
    source = source_of(server, database)
    findings = source.check()
    source.close()
    return [finding for finding in findings if finding.subject == f"{database}.t"]
