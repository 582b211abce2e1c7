"""
The value of new temporal columns in existing rows, from the time and the time zone of a statement.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from engine.change import SchemaChange
from engine.errors import UnloggedChange
from engine.schema import Table, TableId
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.effects import apply_statement
from sources.mysql.ddl.session_time import SessionTime

#: 2009-02-13 23:31:30.987654 UTC
TIME = SessionTime(1_234_567_890, 987_654, "+05:30")
BERLIN = ZoneInfo("Europe/Berlin")


def convert(text: str, of: str, to: str) -> str | None:
    """What a server in Berlin answers, which knows no zones by name."""
    zones = {"SYSTEM": BERLIN, "+00:00": UTC}
    if not {of, to} <= set(zones):
        return None
    at = datetime.fromisoformat(text).replace(tzinfo=zones[of])
    return f"{at.astimezone(zones[to]):%Y-%m-%d %H:%M:%S}"


def filled(column: str, time: SessionTime = TIME, **settings: object) -> list[tuple[str, str]]:
    """The columns that ALTER TABLE t ADD fills with a value, in a table that has a TIMESTAMP."""
    known = {"explicit_defaults_for_timestamp": True, **settings}
    dialect = Dialect(time=time, **known)  # type: ignore[arg-type]
    tables: dict[TableId, Table] = {}
    create = "CREATE TABLE t (id INT PRIMARY KEY, seen TIMESTAMP NULL)"
    for sql in (create, f"ALTER TABLE t ADD {column}"):
        (effect,) = apply_statement(sql, "d", tables, lambda id: True, dialect=dialect)
        assert isinstance(effect, SchemaChange)
        assert effect.after is not None
        tables = {effect.after.id: effect.after}
    return list(effect.filled)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("c TIMESTAMP DEFAULT CURRENT_TIMESTAMP", "2009-02-13 23:31:30"),
        ("c TIMESTAMP(3) NOT NULL DEFAULT NOW(3) FIRST", "2009-02-13 23:31:30.987"),
        ("c DATETIME DEFAULT current_timestamp() ON UPDATE NOW()", "2009-02-14 05:01:30"),
        ("c DATETIME(6) DEFAULT LOCALTIMESTAMP(6)", "2009-02-14 05:01:30.987654"),
        ("c DATETIME(1) DEFAULT LOCALTIME( 1 )", "2009-02-14 05:01:30.9"),
        ("c DATETIME(2) DEFAULT (NOW(2))", "2009-02-14 05:01:30.98"),
        ("c TIMESTAMP DEFAULT '2001-01-01'", "2000-12-31 18:30:00"),
        ("c TIMESTAMP(2) DEFAULT '2001-01-01 05:30:00.5'", "2001-01-01 00:00:00.50"),
        ("c TIMESTAMP(2) DEFAULT '2001-01-01T05:30:00'", "2001-01-01 00:00:00.00"),
    ],
)
def test_existing_rows_get_the_time_of_the_statement(column: str, value: str) -> None:
    assert filled(column) == [("c", value)]


@pytest.mark.parametrize(
    "column",
    [
        "c INT DEFAULT 5",
        "c DATETIME DEFAULT '2001-01-01'",
        "c TIMESTAMP DEFAULT '0000-00-00 00:00:00'",
        "c TIMESTAMP NULL ON UPDATE CURRENT_TIMESTAMP",
        # The sink decides about these: it knows whether there are rows.
        "c TIMESTAMP DEFAULT '2001-02-31'",
    ],
)
def test_other_constants_are_left_to_the_sink(column: str) -> None:
    assert filled(column) == []


@pytest.mark.parametrize(
    "column",
    [
        "c TIMESTAMP DEFAULT '2001-01-01 00:00:00.5'",  # converted by the server
        "c TIMESTAMP DEFAULT '2001-01-01 00:00:00+02:00'",
        "c TIMESTAMP DEFAULT '01-1-1'",
        "c TIMESTAMP DEFAULT 20010101",
        "c DATETIME(2) DEFAULT NOW(6)",  # cut or rounded
        "c DATETIME(6) DEFAULT NOW()",  # with or without a fraction
        "c DATETIME DEFAULT (NOW() + INTERVAL 1 DAY)",
        "c TIMESTAMP DEFAULT (NOW())",
        "c DATE DEFAULT (CURRENT_DATE)",
        "c VARCHAR(30) DEFAULT (NOW())",
        "c DATETIME DEFAULT SYSDATE()",
        "c DATETIME DEFAULT UTC_TIMESTAMP()",
    ],
)
def test_other_expressions_are_not_followed(column: str) -> None:
    with pytest.raises(UnloggedChange, match=r"computed default|converts the default"):
        filled(column)


def test_what_the_log_does_not_have_is_not_guessed() -> None:
    without_fraction = SessionTime(TIME.seconds, None, "+00:00")
    assert filled("c DATETIME DEFAULT NOW()", without_fraction)
    for column, time in (
        ("c DATETIME(3) DEFAULT NOW(3)", without_fraction),
        ("c TIMESTAMP DEFAULT NOW()", SessionTime(0, 0, "+00:00")),
        ("c DATETIME DEFAULT NOW()", SessionTime(TIME.seconds, 0)),
        ("c DATETIME DEFAULT NOW()", SessionTime(TIME.seconds, 0, "SYSTEM")),
        ("c DATETIME DEFAULT NOW()", SessionTime(TIME.seconds, 0, "Mars", convert)),
    ):
        with pytest.raises(UnloggedChange, match=r"computed default|converts the default"):
            filled(column, time)


def test_a_server_tells_the_time_in_zones_with_a_name() -> None:
    time = SessionTime(1_700_000_000, 0, "SYSTEM", convert)
    assert filled("c DATETIME DEFAULT NOW()", time) == [("c", "2023-11-14 23:13:20")]
    summer = "c TIMESTAMP DEFAULT '2023-07-01 12:00:00'"
    assert filled(summer, time) == [("c", "2023-07-01 10:00:00")]
    in_a_gap = "c TIMESTAMP DEFAULT '2023-03-26 02:30:00'"
    assert filled(in_a_gap, time) == []


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ("c TIMESTAMP FIRST", [("c", "2009-02-13 23:31:30")]),
        ("c TIMESTAMP(2) NOT NULL FIRST", [("c", "2009-02-13 23:31:30.98")]),
        # Zero, the implicit default of NOT NULL.
        ("c TIMESTAMP", []),
        ("c TIMESTAMP ON UPDATE CURRENT_TIMESTAMP FIRST", []),
        ("c TIMESTAMP NULL FIRST", []),
    ],
)
def test_the_first_timestamp_without_explicit_defaults(
    column: str, found: list[tuple[str, str]]
) -> None:
    assert filled(column, explicit_defaults_for_timestamp=False) == found


def test_an_unknown_setting_of_explicit_defaults_is_not_guessed() -> None:
    with pytest.raises(UnloggedChange, match="the current time, or zero"):
        filled("c TIMESTAMP FIRST", explicit_defaults_for_timestamp=None)
