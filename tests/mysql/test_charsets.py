"""Every charset against the servers' own conversion, over all bytes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.databases.mysql.charset import (
    BYTES_PER_CHARACTER,
    collation_charset,
    text_decoder,
    text_encoder,
)
from engine.databases.mysql.invalid_text import bytes_of, invalid_text
from engine.errors import DecodeError, SchemaError
from engine.sandbox import Server
from engine.schema import Column, Table, TableId, Type
from engine.toolkit.policies import ReadPolicies
from tests.support.mysql_log import live_table, logged_rows, selected_rows
from tests.support.servers import AnyServer, connect_mysql

SINGLE_BYTE = [name for name, size in BYTES_PER_CHARACTER.items() if size == 1 and name != "binary"]
TWO_BYTES = ("big5", "cp932", "eucjpms", "euckr", "gb18030", "gb2312", "gbk", "sjis", "ujis")
UNICODE = {
    "ucs2": "utf-16-be",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
    "utf8mb3": "utf-8",
    "utf8mb4": "utf-8",
}
# Characters of newer editions of these charsets. The servers show a question mark, or U+FFFD for
# big5, and Tailrace the character.
MORE_THAN_THE_SERVER = {
    "cp1256": [bytes([byte]) for byte in b"\x8a\x8f\x98\x9a\x9f\xaa\xc0\xff"],
    "greek": [b"\xa4", b"\xa5", b"\xaa"],
    "big5": [
        bytes.fromhex(code) for code in ("a15a", "a1c3", "a1c5", "a1fe", "a240", "a2cc", "a2ce")
    ],
}


def _single(charset: str) -> Iterator[bytes]:
    yield from (bytes([byte]) for byte in range(256))


def _multi(charset: str) -> Iterator[bytes]:
    """All bytes and pairs, and all codes of the second plane of EUC."""
    yield from _single(charset)
    yield from (bytes((a, b)) for a in range(0x80, 0x100) for b in range(256))
    if charset in ("ujis", "eucjpms"):
        yield from (bytes((0x8F, a, b)) for a in range(0xA1, 0xFF) for b in range(0xA1, 0xFF))


def _four(charset: str) -> Iterator[bytes]:
    """The four-byte codes of gb18030 with some of the first bytes."""
    if charset != "gb18030":
        return
    digits = range(0x30, 0x3A)
    for a in (0x81, 0x82, 0x84, 0x85, 0x90, 0x9A, 0xE3, 0xE4, 0xFD, 0xFE):
        yield from (bytes((a, b, c, d)) for b in digits for c in range(0x81, 0xFF) for d in digits)


def _unicode(charset: str) -> Iterator[bytes]:
    last = 0xFFFF if charset in ("ucs2", "utf8mb3") else 0x10FFFF
    for point in (*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, last + 1, 251)):
        yield chr(point).encode(UNICODE[charset])


def _rows(server: AnyServer, query: str, columns: int | None = None) -> list[Any]:
    connection = connect_mysql(server)
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        return [row[:columns] for row in cursor.fetchall()]


def _shown(server: AnyServer, charset: str, samples: list[bytes]) -> dict[bytes, str]:
    """The samples that are well-formed to the server, with the text that it converts them to."""
    connection = connect_mysql(server)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
        cursor.execute("CREATE TEMPORARY TABLE mysql.samples (n INT, b VARBINARY(4))")
        for at in range(0, len(samples), 10000):
            rows = ",".join(
                f"({at + n},0x{sample.hex()})" for n, sample in enumerate(samples[at : at + 10000])
            )
            cursor.execute(f"INSERT INTO mysql.samples VALUES {rows}")
        cursor.execute(
            f"SELECT n, HEX(CONVERT(CONVERT(b USING {charset}) USING utf32)) FROM mysql.samples"
            # The server drops or replaces an ill-formed part of the sample.
            f" WHERE CAST(CONVERT(b USING {charset}) AS BINARY) = b"
        )
        return {
            samples[n]: bytes.fromhex(points).decode("utf-32-be")
            for n, points in cursor.fetchall()
            if points  # MySQL takes a lone 8E of eucjpms for nothing
        }


def _compare(server: AnyServer, charset: str, samples: list[bytes]) -> None:
    """Each sample is the server's text, or an error here and question marks there."""
    shown = _shown(server, charset, samples)
    strict, replace = text_decoder(charset), text_decoder(charset, "replace")
    assert len(shown) > 120
    for sample in samples:
        text = shown.get(sample)
        try:
            ours = strict(sample)
        except UnicodeDecodeError:
            ours = None
        if sample in MORE_THAN_THE_SERVER.get(charset, ()):
            assert (text, ours is None) in (("?", False), ("\ufffd", False)), sample
        elif text is None:
            assert ours is None, sample
        elif text.count("?") > sample.count(b"?"):
            assert (ours, replace(sample)) == (None, text), sample
        elif text == "\ufffd" and charset not in UNICODE and charset != "gb18030":
            assert ours is None, sample
        else:
            assert ours == text, sample


def test_all_bytes_read_as_the_server_reads_them(mysql: AnyServer) -> None:
    for charset in SINGLE_BYTE:
        _compare(mysql, charset, list(_single(charset)))
    for charset in TWO_BYTES:
        _compare(mysql, charset, list(_multi(charset)))


@pytest.mark.slow
def test_each_server_has_the_same_tables(mysql_family: AnyServer) -> None:
    _compare_all(mysql_family)


@pytest.mark.slow
def test_old_servers_have_the_same_tables(old_server: Server) -> None:
    _compare_all(old_server)


def _compare_all(server: AnyServer) -> None:
    found = {name for (name,) in _rows(server, "SHOW CHARACTER SET", 1)}
    charsets = [name for name in BYTES_PER_CHARACTER if name != "binary"]
    for charset in charsets:
        if charset in ("gb18030", "utf16le") and charset not in found:
            continue  # MariaDB and MySQL before 5.7, MySQL before 5.6
        if charset in UNICODE:
            _compare(server, charset, list(_unicode(charset)))
        elif charset in TWO_BYTES:
            _compare(server, charset, list(_codes(charset)))
        else:
            _compare(server, charset, list(_single(charset)))


def test_the_page_counts_the_codes() -> None:
    """docs/charsets.md has a line for each charset, with the number of its codes that have a
    character, among those that the tests compare with the servers."""
    page = (Path(__file__).parents[2] / "docs" / "charsets.md").read_text(encoding="utf-8")
    for charset in (*SINGLE_BYTE, *TWO_BYTES):
        samples = _single(charset) if charset in SINGLE_BYTE else _codes(charset)
        codes = [sample for sample in samples if _is_character(charset, sample)]
        assert re.search(rf"^\| {charset} \|.*\| {len(codes)} \|", page, re.MULTILINE), (
            charset,
            len(codes),
        )
    assert all(f"| {charset} |" in page for charset in UNICODE)


def _codes(charset: str) -> Iterator[bytes]:
    yield from _multi(charset)
    yield from _four(charset)


def _is_character(charset: str, sample: bytes) -> bool:
    try:
        return len(text_decoder(charset)(sample)) == 1
    except UnicodeDecodeError:
        return False


def test_bytes_without_a_character_are_an_error() -> None:
    for charset, data, start in (
        ("utf8mb4", b"a\xff", 1),
        ("cp1251", b"ab\x98c", 2),
        ("cp932", b"\x88\x9f\xa1\xfd", 3),
        ("gbk", b"\x81", 0),
        ("ujis", b"\x8f\xa1", 0),
    ):
        with pytest.raises(UnicodeDecodeError) as error:
            text_decoder(charset)(data)
        assert error.value.start == start
    with pytest.raises(DecodeError, match="is unknown"):
        text_decoder("klingon")
    with pytest.raises(DecodeError, match="is unknown"):
        text_decoder("klingon", "replace")


def test_bytes_without_a_character_are_replaced_on_request() -> None:
    seen: list[bytes] = []
    for charset, data, replaced, escaped in (
        ("cp1251", b"\xcf\x98\xff", "П?я", "П\\x98я"),
        ("sjis", b"a\x87\x40\x82\xa0\x80", "a?あ?", "a\\x87\\x40あ\\x80"),
        ("utf8mb4", b"\xe2\x82a\xc3\xa9\xf0", "??aé?", "\\xe2\\x82aé\\xf0"),
        ("ucs2", b"\0a\xd8\0\0b", "a?b", "a\\xd8\\x00b"),
        ("utf32", b"\0\0\0a\0\0\xd8\0", "a?", "a\\x00\\x00\\xd8\\x00"),
    ):
        assert text_decoder(charset, "replace")(data) == replaced
        assert text_decoder(charset, "escape")(data) == escaped
    assert text_decoder("sjis", lambda found: seen.append(found) or "~")(b"\x87\x40\x80") == "~~"
    assert seen == [b"\x87\x40", b"\x80"]


def test_every_collation_of_the_servers_is_known(mysql_family: AnyServer) -> None:
    mariadb = mysql_family.kind == "mariadb"
    view = "COLLATION_CHARACTER_SET_APPLICABILITY" if mariadb else "COLLATIONS"
    query = f"SELECT ID, CHARACTER_SET_NAME FROM information_schema.{view}"
    rows = [(id, charset) for id, charset in _rows(mysql_family, query) if id is not None]
    assert len(rows) > 250
    assert [(id, collation_charset(id)) for id, _ in rows] == rows


def test_stream_and_backfill_read_columns_of_every_charset(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    """One row with all characters of every charset, as the server itself converts them."""
    database = fresh_mysql_database(mysql_family)
    known = {name for (name,) in _rows(mysql_family, "SHOW CHARACTER SET", 1)}
    charsets = [name for name in BYTES_PER_CHARACTER if name in known and name != "binary"]
    values = [_characters(charset) for charset in charsets]
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        columns = [f"{name}_ LONGTEXT CHARACTER SET {name}" for name in charsets]
        cursor.execute(f"CREATE TABLE t (id INT PRIMARY KEY, {', '.join(columns)})")
        table = live_table(connection, database, "t")
        literals = [
            f"CONVERT(x'{data.hex()}' USING {name})"
            for name, data in zip(charsets, values, strict=True)
        ]
        insert = f"INSERT INTO t VALUES (1, {', '.join(literals)})"
        [rows] = logged_rows(mysql_family, connection, table, [insert])
        shown = ", ".join(f"HEX(CONVERT({name}_ USING utf32))" for name in charsets)
        cursor.execute(f"SELECT {shown} FROM t")
        expected = [bytes.fromhex(text).decode("utf-32-be") for text in cursor.fetchone()]
    assert rows.after is not None
    for name, ours, theirs in zip(charsets, rows.after[0][1:], expected, strict=True):
        assert ours == theirs, name
        assert len(ours) > 120
    assert selected_rows(mysql_family, table) == rows.after


def _characters(charset: str) -> bytes:
    """All characters of a charset that the servers have too; a part of those of Unicode."""
    samples = {**dict.fromkeys(TWO_BYTES, _multi), **dict.fromkeys(UNICODE, _unicode)}
    chosen = [
        sample
        for sample in samples.get(charset, _single)(charset)
        if _is_character(charset, sample) and sample not in MORE_THAN_THE_SERVER.get(charset, ())
    ]
    return b"".join(chosen[::9] if charset in UNICODE else chosen)


def test_labels_without_a_charset(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    """ENUM and SET with the charset binary: their labels are text nevertheless."""
    database = fresh_mysql_database(mysql_family)
    many = ",".join(f"'m{number}'" for number in range(64))
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (e ENUM('a','é') CHARACTER SET binary, s SET('a','é','x') BYTE,"
            f" m SET({many}) CHARACTER SET binary, c CHAR(3) CHARACTER SET binary,"
            " x TEXT CHARACTER SET binary)"
        )
        table = live_table(connection, database, "t")
        insert = (
            "INSERT INTO t VALUES (2, 6, 9223372036854775809, 'a', 'é'), (1, 0, -1, '', ''),"
            " (NULL, NULL, NULL, NULL, NULL)"
        )
        [rows] = logged_rows(mysql_family, connection, table, [insert])
        cursor.execute("SELECT CAST(e AS CHAR), CAST(s AS CHAR), CAST(m AS CHAR), c, x FROM t")
        assert rows.after == list(cursor.fetchall())
    assert rows.after is not None
    assert rows.after[0] == ("é", "é,x", "m0,m63", b"a\0\0", "é".encode())
    assert selected_rows(mysql_family, table) == rows.after


def test_labels_that_are_no_text_are_refused(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (e ENUM('a',x'ff') CHARACTER SET binary)")
        with pytest.raises(SchemaError, match="the column e: ") as error:
            live_table(connection, database, "t")
    assert error.value.table == f"{database}.t"


@pytest.mark.parametrize("charset", sorted(set(BYTES_PER_CHARACTER) - {"binary"}))
def test_a_key_with_substitutes_stands_for_bytes_that_are_read_as_it(charset: str) -> None:
    column = Column("k", Type("text"), False, f"varchar(9) character set {charset}")
    table = Table(TableId("s", "t"), (column,), key=(0,))
    errors = invalid_text(ReadPolicies(invalid_text="escape"), table, column)
    decode = text_decoder(charset, errors)
    dice = random.Random(charset)
    for _ in range(300):
        text = decode(dice.randbytes(4 * dice.randrange(1, 4)))
        data = bytes_of(text, charset)
        assert data is not None
        assert decode(data) == text


@pytest.mark.parametrize("charset", ["big5", "eucjpms", "euckr", "gbk", "sjis", "ujis"])
def test_each_character_of_two_bytes_is_encoded(charset: str) -> None:
    decode, encode = text_decoder(charset), text_encoder(charset)
    for code in range(0x8100, 0xFF00):
        try:
            text = decode(code.to_bytes(2))
        except UnicodeDecodeError:
            continue
        assert decode(encode(text)) == text
