"""Which ICU collation stands for a collation of the source."""

from __future__ import annotations

import asyncio

import pytest

from engine.contract import Finding
from engine.databases.mysql.types import neutral_type
from engine.databases.postgres.collations import icu_collation
from engine.schema import Column, Table, TableId
from engine.toolkit.policies import StoragePolicies
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink


@pytest.mark.parametrize(
    ("collation", "locale"),
    [
        ("utf8mb4_0900_ai_ci", "und-u-ks-level1"),
        ("utf8mb4_0900_as_ci", "und-u-ks-level2"),
        ("utf8mb4_sv_0900_ai_ci", "sv-u-ks-level1"),
        ("utf8mb4_de_pb_0900_ai_ci", "de-u-co-phonebk-ks-level1"),
        ("utf8mb4_uca1400_ai_ci", "und-u-ks-level1"),
        ("utf8mb4_uca1400_nopad_as_ci", "und-u-ks-level2"),
        ("uca1400_ai_ci", "und-u-ks-level1"),
        ("utf8mb3_general_ci", "und-u-ks-level1"),
        ("utf8mb4_unicode_520_ci", "und-u-ks-level1"),
        ("utf8mb4_german2_ci", "de-u-co-phonebk-ks-level1"),
        ("latin1_swedish_ci", "sv-u-ks-level1"),
        ("latin1_general_ci", "und-u-ks-level2"),
        ("latin1_german1_ci", "und-u-ks-level1"),
        ("utf8mb4_0900_as_cs", None),
        ("utf8mb4_uca1400_ai_cs", None),
        ("utf8mb4_bin", None),
        ("latin1_general_cs", None),
        ("utf8mb4_turkish_ci", None),
        ("utf8mb4_tr_0900_ai_ci", None),
    ],
)
def test_locales(collation: str, locale: str | None) -> None:
    """GIVEN a collation of the source WHEN its like is asked for THEN it is one that is known to
    agree, or none."""
    charset = collation.partition("_")[0]
    charset = "utf8mb4" if charset == "uca1400" else charset
    text = f"varchar(9) character set {charset} collate {collation}"
    found = icu_collation(Column("c", neutral_type(text), text))
    assert (found and found.locale) == locale


@pytest.mark.parametrize(
    ("charset", "locale"),
    [("utf8mb4", "und-u-ks-level1"), ("latin1", "sv-u-ks-level1"), ("cp1251", "und-u-ks-level2")],
)
def test_defaults_of_charsets(charset: str, locale: str) -> None:
    """GIVEN a column whose collation the log does not name WHEN its like is asked for THEN it is
    that of the charset's default."""
    text = f"varchar(9) character set {charset}"
    found = icu_collation(Column("c", neutral_type(text), text))
    assert found is not None
    assert found.locale == locale
    assert icu_collation(Column("c", neutral_type("text"), "text character set gbk")) is None


def test_labels_and_bytes_have_none() -> None:
    """GIVEN columns that are no text WHEN their collation is asked for THEN there is none."""
    for text in ("enum('a') collate utf8mb4_general_ci", "varbinary(9)", "int"):
        assert icu_collation(Column("c", neutral_type(text), text)) is None


def test_the_preflight_says_what_does_not_follow_a_policy(url: str) -> None:
    """GIVEN a collation without its like in ICU, and an expression that is not exact WHEN the
    target is checked THEN both are named."""
    turkish = "varchar(9) character set utf8mb4 collate utf8mb4_tr_0900_ai_ci"
    columns = (
        Column("id", neutral_type("int"), "int", nullable=False),
        Column("c", neutral_type(turkish), turkish),
        Column("g", neutral_type("int"), "int", generated=True),
    )
    table = Table(TableId("shop", "t"), columns, (0,))
    values = StoragePolicies(collation="source", generated="generated")
    sink = PostgresSink(PostgresSettings(url, values=values), "checked")

    async def check() -> list[Finding]:
        try:
            return await sink.check([table])
        finally:
            await sink.close()

    findings = {it.code: it.message for it in asyncio.run(check()) if it.level != "ok"}
    assert findings.keys() == {"PG020", "PG021"}
    assert "column g" in findings["PG020"]
    assert "column c" in findings["PG021"]
