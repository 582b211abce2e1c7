"""
Keys of text in every charset: a lookup by the text that a read shows finds the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product

import msgspec
import pytest

from engine.databases.mysql.connect import is_mariadb, query
from engine.databases.mysql.row_reader import MySQLRowReader
from engine.schema import Column, Table, TableId, Type
from engine.toolkit.policies import ReadPolicies
from sources.mysql.catalog import read_table
from sources.mysql.overrides import Overrides
from sources.mysql.settings import MySQLSettings
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.sides import Sides

CHARSETS = "SELECT character_set_name, maxlen FROM information_schema.character_sets"
UNICODE = ("utf8", "utf8mb3", "utf8mb4", "ucs2", "utf16", "utf16le", "utf32", "binary")


@pytest.fixture
def writer(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Iterator[Writer]:
    made = Writer(mysql_family, fresh_mysql_database(mysql_family))
    made("SET sql_mode = ''")
    yield made
    made.connection.close()


def fill(writer: Writer, charset: str, keys: list[bytes]) -> Table:
    """A table with keys of these bytes, as far as they are well-formed to the server."""
    text = f"VARCHAR(9) CHARACTER SET {charset} COLLATE {charset}_bin"
    writer(f"CREATE TABLE {charset} (k {text} PRIMARY KEY)")
    rows = ", ".join(f"(x'{key.hex()}')" for key in keys)
    writer("CREATE TEMPORARY TABLE samples (b VARBINARY(9))", f"INSERT INTO samples VALUES {rows}")
    text = f"CONVERT(b USING {charset})"
    writer(
        f"INSERT IGNORE INTO {charset} SELECT {text} FROM samples WHERE CAST({text} AS BINARY) = b",
        "DROP TEMPORARY TABLE samples",
    )
    table = read_table(writer.connection, TableId(writer.database, charset))
    assert table is not None
    return table


def check_lookups(settings: MySQLSettings, table: Table, limit: int) -> None:
    """A reader that has read nothing finds all rows, and so does one that has read them."""
    with closing(MySQLRowReader(settings)) as reader:
        keys = [key for rows in reader.scan(table) for key in rows]
        assert len(keys) == reader.count(table) > 100
        assert len(reader.by_keys(table, keys, keys_only=True)) == len(keys), table.id
    with closing(MySQLRowReader(settings)) as reader:
        # Several bytes are a backslash in sjis and ujis. A read tells which ones a key has.
        sure = {key for key in keys if "\\" not in (key[0] or "")}
        assert sure <= set(reader.by_keys(table, keys, keys_only=True)), table.id
    with closing(MySQLRowReader(settings)) as reader:
        rows, after = len(keys), None
        while rows > 0 and (chunk := reader.chunk(table, after, limit, keys_only=True)):
            after, rows = chunk[-1], rows - len(chunk)
        assert (rows, reader.chunk(table, after, limit)) == (0, []), table.id


def test_every_byte_of_every_charset_is_found(mysql_family: AnyServer, writer: Writer) -> None:
    settings = MySQLSettings(url=mysql_family.url)
    charsets = [name for name, longest in query(writer.connection, CHARSETS) if longest == 1]
    assert "hebrew" in charsets
    for charset in charsets:
        if charset not in UNICODE:
            table = fill(writer, charset, [bytes([byte]) for byte in range(256)])
            check_lookups(settings, table, 7)


@pytest.mark.slow
def test_every_pair_of_bytes_of_every_charset_is_found(
    mysql_family: AnyServer, writer: Writer
) -> None:
    settings = MySQLSettings(url=mysql_family.url)
    pairs = [bytes(pair) for pair in product(range(0x81, 0xFF), range(0x40, 0xFF))]
    pairs += [bytes([byte]) for byte in range(0x80)]
    for charset, longest in query(writer.connection, CHARSETS):
        # One pair of gb18030, of 24,000, is not found.
        if longest in (2, 3) and charset not in UNICODE:
            check_lookups(settings, fill(writer, charset, pairs), 1000)


#: Types of keys, and values of them as SQL.
TYPES = {
    "TINYINT": "-1 0 7",
    "BIGINT UNSIGNED": "0 1 18446744073709551615",
    "BOOLEAN": "0 1",
    "DECIMAL(20,5)": "-1.5 0 12345678901234.56789",
    "FLOAT": "0.1 -2.5 3e30",
    "DOUBLE": "0.1 -2.5 1e300",
    "BIT(64)": "0 1 18446744073709551615",
    "YEAR": "2024 1999 0",
    "DATE": "'2024-01-02' '0000-00-00' '9999-12-31'",
    "DATETIME": "'2024-01-02 03:04:05' '0000-00-00' '9999-12-31 23:59:59'",
    "DATETIME(6)": "'2024-01-02 03:04:05.000001' '2024-01-02 03:04:05' '0000-00-00'",
    "TIMESTAMP": "'2024-01-02 03:04:05' '2030-01-01 00:00:00' '0000-00-00'",
    "TIMESTAMP(3)": "'2024-01-02 03:04:05.125' '2030-01-01 00:00:00' '0000-00-00'",
    "TIME": "'10:00:00' '-838:59:59' '00:00:00'",
    "TIME(6)": "'10:00:00.000001' '-838:59:58.999999' '00:00:00'",
    "BINARY(3)": "x'00' x'ff00ff' ''",
    "VARBINARY(9)": "x'00' x'ff00ff' ''",
    "CHAR(5)": "'a' 'é€' ''",
    "VARCHAR(5)": "'a' 'é€' ' ' '😀'",
    "ENUM('a','é','')": "'a' 'é' ''",
    "SET('a','é','c')": "'a' 'a,é' ''",
    f"SET{tuple(f'm{n}' for n in range(64))}": "1 18446744073709551615 0",
}
OF_MARIADB = {
    "UUID": "'12345678-9abc-11ef-8000-0123456789ab' 'ffffffff-ffff-ffff-ffff-ffffffffffff'",
    "POINT": "POINT(1,2) POINT(1e-300,1e300) x'e6100000010100000000000000000008400000000000001040'",
    "INET6": "'::1' '2001:db8::ff'",
    "INET4": "'1.2.3.4' '255.255.255.255'",
}


def check_together(settings: MySQLSettings, table: Table) -> None:
    """A reader that has read nothing finds all rows by one lookup, and each by one of its own."""
    with closing(MySQLRowReader(settings)) as reader:
        keys = [key for rows in reader.scan(table) for key in rows]
    with closing(MySQLRowReader(settings)) as reader:
        assert len(keys) > 1
        assert sorted(reader.by_keys(table, keys)) == sorted(keys), table.columns
        assert [reader.by_keys(table, [key]) for key in keys] == [[key] for key in keys]


def make_pairs(writer: Writer, type: str, values: list[str], name: str) -> Table:
    """A table with a key of an integer and this type."""
    writer(f"CREATE TABLE {name} (a INT, k {type} NOT NULL, PRIMARY KEY (a, k))")
    rows = ", ".join(f"({number}, {value})" for number in (1, 2) for value in values)
    writer(f"INSERT IGNORE INTO {name} VALUES {rows}")
    table = read_table(writer.connection, TableId(writer.database, name))
    assert table is not None
    return table


def test_keys_of_two_columns_of_every_type_are_found_together(
    mysql_family: AnyServer, writer: Writer
) -> None:
    settings = MySQLSettings(url=mysql_family.url)
    types = TYPES | (OF_MARIADB if is_mariadb(writer.connection) else {})
    for number, (type, values) in enumerate(types.items()):
        quoted = re.findall(r"x?'[^']*'|\S+", values)
        check_together(settings, make_pairs(writer, type, quoted, f"t{number}"))


@pytest.mark.slow
def test_keys_of_two_columns_of_every_charset_are_found_together(
    mysql_family: AnyServer, writer: Writer
) -> None:
    settings = MySQLSettings(url=mysql_family.url)
    texts = [f"'{text}'" for text in ("a", "b c", "é", "€", "я", "漢", "א", "ก", "😀", "Ω")]
    for (charset, _), enum in product(query(writer.connection, CHARSETS), (False, True)):
        if charset != "binary":
            type = "ENUM('a', 'b c')" if enum else "VARCHAR(9)"
            type = f"{type} CHARACTER SET {charset}"
            table = make_pairs(writer, type, texts[:2] if enum else texts, f"{charset}{int(enum)}")
            check_together(settings, table)


def test_a_chunk_begins_behind_the_bytes_that_were_read(sides: Sides) -> None:
    """GIVEN two bytes of one character WHEN the row of one is looked up between two chunks THEN the
    second chunk still begins behind the byte with which the first one ended.
    """
    text = "VARCHAR(3) CHARACTER SET armscii8 COLLATE armscii8_bin"
    table = sides.make("t", f"a INT, k {text}, PRIMARY KEY (a, k)")
    sides.on_source("INSERT INTO t VALUES (1, x'A5'), (2, x'28'), (2, 'A'), (2, 'B')")
    reader = sides.source_reader
    first = reader.chunk(table, None, 2)
    assert first == [("1", "("), ("2", "(")]
    assert reader.by_keys(table, first[:1]) == first[:1]
    assert reader.chunk(table, first[-1], 2) == [("2", "A"), ("2", "B")]
    assert reader.chunk(table, first[0], 1) == first[1:]
    assert reader.chunk(table, first[-1], 1, keys_only=True) == [("2", "A")]


@pytest.mark.parametrize("policy", ["error", "replace"])
def test_letters_that_the_server_hides_are_read(
    new_sides: Callable[..., Sides], mysql: AnyServer, policy: str
) -> None:
    """GIVEN letters of cp1256 that the server shows as question marks THEN they are equal to those
    of the target, whatever the policy is for invalid text.
    """
    sides = new_sides(mysql, reads=ReadPolicies(invalid_text=policy))
    letters = bytes(range(0x80, 0x100))
    table = sides.make("t", "k VARCHAR(9) CHARACTER SET cp1256 COLLATE cp1256_bin PRIMARY KEY")
    rows = ", ".join(f"(x'{letter:02x}')" for letter in letters)
    sides.on_source(f"INSERT INTO t VALUES {rows}")
    for letter in letters.decode("cp1256"):
        sides.target.execute("INSERT INTO t VALUES (%s)", (letter,))
    for by_rows in (False, True):
        report = sides.compare(table, by_rows=by_rows, chunk_rows=50)
        assert (report.equal, report.rows) == (True, 128)
        assert not any("invalid_text" in it.policy for it in report.replaced)


def test_a_row_with_invalid_text_in_its_key_is_reported(sides: Sides) -> None:
    """GIVEN rows with invalid text in the key and in a value, of which the target lacks one and has
    another value in the other THEN a report in detail can be written.
    """
    text = "VARCHAR(9) CHARACTER SET cp1251 COLLATE cp1251_bin"
    table = sides.make("t", f"k {text} PRIMARY KEY, v {text}, n INT")
    sides.on_source("INSERT INTO t VALUES (x'98', x'98', 1), (x'9898', x'98', 1)")
    sides.target.execute("INSERT INTO t VALUES (%s, 'x', 1)", ("\U000f0098",))
    report = msgspec.json.decode(msgspec.json.encode(sides.compare(table, in_detail=True)))
    found = {it["kind"]: (it["key"], it["values"][0]["source"]) for it in report["differences"]}
    assert found == {
        "changed": (["\U000f0098"], "\ufffd"),
        "missing": (["\U000f0098\U000f0098"], "\U000f0098\U000f0098"),
    }


def test_a_charset_whose_bytes_are_all_characters_has_no_policy_for_others() -> None:
    """GIVEN tables that were backfilled by another policy for invalid text THEN only the one whose
    charset has invalid bytes is backfilled again. Eight letters of cp1256 are valid, though the
    servers show question marks."""
    tables = [
        Table(TableId("shop", name), (Column("v", Type("text", 9), f"varchar(9) charset {name}"),))
        for name in ("cp1256", "cp1251", "latin1")
    ]
    outdated = Overrides(ReadPolicies(invalid_text="escape")).outdated(tables)
    assert [id.name for id in outdated] == ["cp1251"]
