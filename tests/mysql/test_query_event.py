"""
QUERY events: the fields, and the status variables as MySQL and MariaDB write them.
"""

from __future__ import annotations

import struct

import pytest

from engine.errors import DecodeError
from sources.mysql.binlog.events import Format
from sources.mysql.binlog.query_event import Query, Session, read_query, session_of, statement_text

MYSQL = Format("9.7.4", True)
MARIADB = Format("10.11.14-MariaDB-log", True)
LATIN1 = b"\x04" + struct.pack("<HHH", 8, 8, 8)


def query_event(text: bytes, schema: bytes = b"shop", status: bytes = b"", error: int = 0) -> bytes:
    header = struct.pack("<IBIIIH", 1_000_000_000, 2, 1, 0, 0, 4)
    fields = struct.pack("<IIBHH", 7, 0, len(schema), error, len(status))
    return header + fields + status + schema + b"\0" + text


def session(status: bytes, format: Format = MYSQL) -> Session:
    return session_of(Query("", status, b""), format)


def test_a_query_has_its_schema_thread_error_time_and_flags() -> None:
    event = query_event("ALTER TABLE caf\xe9".encode("latin-1"), status=b"\x00\0\0\0\0", error=1062)
    query = read_query(event, len(event))
    assert query.schema == "shop"
    assert (query.thread, query.error, query.timestamp) == (7, 1062, 1_000_000_000)
    assert query.thread_specific
    assert statement_text(query.statement, "latin1") == "ALTER TABLE café"


def test_a_query_can_have_no_schema_and_no_statement() -> None:
    event = query_event(b"", schema=b"")
    assert read_query(event, len(event))[:3] == ("", b"", b"")
    with pytest.raises(DecodeError):
        read_query(event, len(event) - 1)


def test_the_sql_mode_and_the_charset_of_the_client() -> None:
    status = b"\x00" + bytes(4) + b"\x01" + (4).to_bytes(8, "little")
    status += b"\x06\x03std" + b"\x03" + bytes(4) + LATIN1
    assert session(status)[:2] == (4, "latin1")
    assert session(b"\x63unknown")[:2] == (0, "utf8mb4")
    assert session(b"\x06\xff")[:2] == (0, "utf8mb4")


def test_the_status_variables_that_mysql_writes() -> None:
    """The bytes are those of ALTER TABLE … ADD f TIMESTAMP DEFAULT CURRENT_TIMESTAMP."""
    status = bytes.fromhex(
        "0000000000012000a04500000000060373746404ff00ff00ff0005062b30353a30300c016431000d40e2011001"
        "112b0000000000000012ff001300"
    )
    found = session(status)
    assert (found.charset, found.time_zone) == ("utf8mb4", "+05:00")
    assert found.microseconds == 123456
    assert found.explicit_defaults_for_timestamp is True
    assert (
        session(status.replace(b"\x10\x01", b"\x10\x00")).explicit_defaults_for_timestamp is False
    )
    assert session(LATIN1).explicit_defaults_for_timestamp is None


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("10.11.14", True),
        ("11.8.6", True),
        ("10.5.17", True),
        ("10.5.16", False),
        ("10.4.3", False),
    ],
)
@pytest.mark.parametrize("options", ["00000001", "0000000c"])
def test_the_status_variables_that_mariadb_writes(version: str, known: bool, options: str) -> None:
    status = bytes.fromhex(
        "00"
        + options
        + "0100002054000000000603737464042d002d000800050653595354454d80d6c20281220000"
        "0000000000"
    )
    found = session(status, Format(f"{version}-MariaDB-log", True))
    assert (found.charset, found.time_zone) == ("utf8mb4", "SYSTEM")
    assert found.microseconds == 180950
    expected = options.endswith("1") if known else None
    assert found.explicit_defaults_for_timestamp is expected


@pytest.mark.parametrize(
    "variable",
    [
        b"\x0b\x04root\x09localhost",
        b"\x0c\x02one\0two\0",
        b"\x0c\xfe",
        b"\x02\x03std\0",
        b"\x82\x02\0",
        b"\x82\x04\0" + bytes(8),
        b"\x83\x02\xff\0\xff\0\x08\0\x08\0",
        b"\x81" + bytes(8),
        b"\x11" + bytes(8),
    ],
    ids=lambda variable: variable[:1].hex(),
)
def test_a_variable_before_is_skipped(variable: bytes) -> None:
    assert session(variable + LATIN1, MARIADB).charset == "latin1"
    for cut in range(1, len(variable)):
        assert session(variable[:cut], MARIADB) == Session(explicit_defaults_for_timestamp=None)
