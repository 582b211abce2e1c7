"""
Every column type of MySQL and MariaDB with the values that tests carry from end to end.

A ``Kind`` is one column type with SQL expressions of its values: minimum, maximum, zero, empty and
odd ones. NULL is tested for every kind. Kinds of one family are the columns of one table, so a test
carries all of their values in few rows. ``since`` says which releases have the type.

``docs/types.md`` is made of this table (``tests.support.types_page``).
"""

# ruff: noqa: E501  (a kind is a line)

from __future__ import annotations

from typing import NamedTuple

from tests.support.releases import Since, Version

__all__ = ["FAMILIES", "MYSQL_57", "TABLES", "Form", "Kind", "family"]


class Kind(NamedTuple):
    """A column's type and attributes, and SQL expressions of its values.

    A generated column has no values. ``odd`` values need a session without strict mode.
    """

    definition: str
    values: tuple[str, ...] = ()
    since: Since = Since()

    @property
    def type(self) -> str:
        """The source type without the attributes that belong to the column."""
        return self.definition.split(" AS (")[0].removesuffix(" NULL").removesuffix(" INVISIBLE")


class Form(NamedTuple):
    """A form of table with columns that its definition does not list as plain ones.

    ``create`` is CREATE TABLE for the name ``{}``. ``fill`` makes rows, ``change`` changes them.
    """

    name: str
    create: str
    fill: tuple[str, ...]
    change: tuple[str, ...]
    since: Since
    session: str = ""


FRACTIONS = Since(mysql=(5, 6, 4))
YEARS_OF_2_DIGITS = Since(mysql_until=(5, 6, 6))
MYSQL_57 = Since(mysql=(5, 7, 8), mariadb=None)
MYSQL_8 = Since(mysql=(8, 0), mariadb=None)
COMPUTED = Since(mysql=(5, 7, 6), mariadb=(10, 2, 1))
INVISIBLE = Since(mysql=(8, 0, 23), mariadb=(10, 3, 3))
COMPRESSED = Since(mysql=None, mariadb=(10, 3, 2))


def _integers() -> list[Kind]:
    kinds = []
    for name, bits in (
        ("TINYINT", 8),
        ("SMALLINT", 16),
        ("MEDIUMINT", 24),
        ("INT", 32),
        ("BIGINT", 64),
    ):
        low, high, top = -(1 << bits - 1), (1 << bits - 1) - 1, (1 << bits) - 1
        signed = (str(low), str(high), "0", "-1", "1")
        kinds.append(Kind(name, signed))
        kinds.append(Kind(f"{name} UNSIGNED", (str(top), "0", str(high + 1), str(high), "1")))
        kinds.append(Kind(f"{name} ZEROFILL", (str(top), "0", "7", str(high), "10")))
    return [
        *kinds,
        Kind("TINYINT(1)", ("0", "1", "-1", "2", "127", "-128")),
        Kind("BOOLEAN", ("TRUE", "FALSE")),
        Kind("INT(5) UNSIGNED ZEROFILL", ("7", "4294967295", "0")),
        Kind("YEAR", ("1901", "2155", "0", "1970", "2000")),
        Kind("YEAR(2)", ("70", "69", "99", "'00'", "1999", "2000"), YEARS_OF_2_DIGITS),
        *(
            Kind(f"BIT({bits})", ("0", "1", str((1 << bits) - 1), str(1 << bits - 1), "b'1'"))
            for bits in (1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 40, 48, 56, 63, 64)
        ),
    ]


def _decimals() -> list[Kind]:
    kinds = []
    for precision, scale in (
        *((1, 0), (1, 1), (2, 1), (5, 5), (9, 0), (9, 9), (10, 0), (10, 2), (18, 9), (19, 2)),
        *(
            (20, 20),
            (27, 13),
            (28, 0),
            (30, 30),
            (37, 1),
            (47, 12),
            (64, 29),
            (65, 0),
            (65, 1),
            (65, 30),
        ),
    ):
        whole, fraction = "9" * (precision - scale) or "0", "9" * scale
        top = f"{whole}.{fraction}" if scale else whole
        least = f"0.{'0' * (scale - 1)}1" if scale else "1"
        kinds.append(
            Kind(
                f"DECIMAL({precision},{scale})",
                (f"'{top}'", f"'-{top}'", "0", f"'{least}'", f"'-{least}'"),
            )
        )
    return [
        *kinds,
        Kind(
            "DECIMAL(38,38)",
            (f"'0.{'9' * 38}'", f"'-0.{'0' * 37}1'", "0"),
            Since(mysql=None, mariadb=(10, 2, 1)),
        ),
        Kind("DECIMAL(65,30) UNSIGNED", (f"'{'9' * 35}.{'9' * 30}'", "0")),
        Kind("DECIMAL(12,2) ZEROFILL", ("0.5", "9999999999.99", "0")),
        Kind("NUMERIC", ("9999999999", "-9999999999", "0")),
    ]


def _floats() -> list[Kind]:
    single = (
        "0",
        "1.1",
        "-3.4028234e38",
        "3.4028234e38",
        "1.1754943e-38",
        "1e-45",
        "16777217",
        "-0e0",
        "0.1",
        "123456.789",
    )
    double = (
        "0",
        "1.7976931348623157e308",
        "-1.7976931348623157e308",
        "2.2250738585072014e-308",
        "5e-324",
        "0.1",
        "9007199254740993",
        "-0e0",
        "1e15",
        "1.5e-7",
    )
    return [
        Kind("FLOAT", single),
        Kind("FLOAT UNSIGNED", ("0", "3.4028234e38", "0.1")),
        Kind("FLOAT ZEROFILL", ("0", "3.25")),
        Kind("FLOAT(7,2)", ("99999.99", "-99999.99", "1.239", "0", "0.005", "12345.67")),
        Kind("FLOAT(10,0)", ("16777217", "-1", "0")),
        Kind("FLOAT(23)", single),
        Kind("FLOAT(53)", double),
        Kind("DOUBLE", double),
        Kind("DOUBLE UNSIGNED", ("0", "1.7976931348623157e308")),
        Kind("DOUBLE(20,3)", ("1234567.891", "-0.001", "0", "99999999999999999.999")),
        Kind("DOUBLE(255,30)", ("0.000000000000000000000000000001", "1", "-0.1")),
        Kind("DOUBLE PRECISION", double),
    ]


def _temporals() -> list[Kind]:
    days = (
        "'1000-01-01'",
        "'9999-12-31'",
        "'0000-00-00'",
        "'2020-02-29'",
        "'2020-02-31'",
        "'2020-00-10'",
        "'2020-10-00'",
        "'0001-01-01'",
        "'0000-01-01'",
        "'1582-10-10'",
    )
    kinds = [Kind("DATE", days)]
    for digits in range(7):
        size = f"({digits})" if digits else ""
        since = FRACTIONS if digits else Since()
        part = "." + "123456"[:digits] if digits else ""
        last = "." + "9" * digits if digits else ""
        least = "." + "0" * (digits - 1) + "1" if digits else ""
        moments = (
            f"'1000-01-01 00:00:00{part}'",
            f"'9999-12-31 23:59:59{last}'",
            "'0000-00-00 00:00:00'",
            f"'1969-12-31 23:59:59{least}'",
            f"'2020-02-31 12:00:00{part}'",
            f"'2020-00-10 01:02:03{last}'",
            "'0001-01-01 00:00:00'",
            "'2020-02-29 00:00:00'",
        )
        kinds += [
            Kind(
                f"TIME{size}",
                (
                    f"'-838:59:59{'.' + '0' * digits if digits else ''}'",
                    f"'838:59:58{last}'",
                    "'00:00:00'",
                    f"'-00:00:01{least}'",
                    f"'23:59:59{part}'",
                    f"'-00:00:00{least}'",
                    "'24:00:00'",
                ),
                since,
            ),
            Kind(f"DATETIME{size}", moments, since),
            Kind(
                f"TIMESTAMP{size} NULL",
                (
                    "'1970-01-01 00:00:01'",
                    f"'2038-01-19 03:14:07{last}'",
                    "'0000-00-00 00:00:00'",
                    f"'2021-03-28 01:30:00{part}'",
                    f"'2000-01-01 00:00:00{least}'",
                ),
                since,
            ),
        ]
    return kinds


def _strings() -> list[Kind]:
    odd = (
        "''",
        "'a  '",
        "'  a'",
        "'é日本😀'",
        r"'\\N'",
        r"'tab\tnew\nline\r\\back'",
        r"'quote''\"%s{}'",
        r"'\0'",
        r"'a\0b'",
    )
    plain = ("''", "'a  '", r"'\\'", "'Ω'")
    return [
        Kind("CHAR(0)", ("''",)),
        Kind("CHAR(1)", ("''", "'x'", "'😀'", "' '")),
        Kind("CHAR(30)", odd),
        Kind("CHAR(255)", ("REPEAT('😀', 255)", "'x'", "REPEAT('y', 255)")),
        Kind("VARCHAR(0)", ("''",)),
        Kind("VARCHAR(30)", odd),
        Kind("VARCHAR(63)", ("REPEAT('😀', 63)", "''")),
        Kind("VARCHAR(64)", ("REPEAT('😀', 64)", "''")),
        Kind("VARCHAR(300)", ("REPEAT('é😀', 150)", "REPEAT('x', 255)", "REPEAT('x', 256)")),
        Kind("TINYTEXT", (*odd, "REPEAT('x', 255)")),
        Kind("TEXT", (*odd, "REPEAT('x', 65535)", "REPEAT('é', 32767)")),
        Kind("MEDIUMTEXT", (*odd, "REPEAT('x', 65536)")),
        Kind("LONGTEXT", (*odd, "REPEAT('y', 70000)")),
        Kind("VARCHAR(20) CHARACTER SET ascii", ("''", "'a~'", "'  '")),
        Kind(
            "VARCHAR(20) CHARACTER SET latin1",
            ("_latin1 0x8081E9FF", "_latin1 0x818D8F909D", "'a  '", "''"),
        ),
        Kind("CHAR(9) CHARACTER SET latin1", ("_latin1 0x80FF", "''")),
        Kind("TEXT CHARACTER SET utf8", ("'é日本'", "''")),
        Kind("TEXT CHARACTER SET koi8r", ("'привет'", "''")),
        Kind("TINYTEXT CHARACTER SET cp1251", ("'Я'", "''")),
        Kind("VARCHAR(9) CHARACTER SET sjis", ("'ソ表'", r"'\\'", "''")),
        Kind("VARCHAR(9) CHARACTER SET gbk", ("'汉字'", "''")),
        Kind("VARCHAR(9) CHARACTER SET ucs2", plain),
        Kind("CHAR(5) CHARACTER SET utf16", ("'é😀 '", "'a'", "''")),
        Kind("TEXT CHARACTER SET utf32", ("'é😀 '", "''")),
        Kind("VARCHAR(9) COLLATE utf8mb4_bin", plain),
    ]


def _binaries() -> list[Kind]:
    odd = ("''", "0x00", "0x0041000A5C4E09FF00", "0xFFFEFD", "0x20")
    return [
        Kind("BINARY(0)", ("''",)),
        Kind("BINARY(9)", odd),
        Kind("BINARY(255)", (*odd, "REPEAT(0xFF, 255)", "REPEAT(0x00, 255)")),
        Kind("VARBINARY(0)", ("''",)),
        Kind("VARBINARY(9)", odd),
        Kind("VARBINARY(255)", (*odd, "REPEAT(0x0A, 255)")),
        Kind("VARBINARY(300)", (*odd, "REPEAT(0x5C, 300)")),
        Kind("TINYBLOB", (*odd, "REPEAT(0x00, 255)")),
        Kind("BLOB", (*odd, "REPEAT(0x5C, 65535)")),
        Kind("MEDIUMBLOB", (*odd, "REPEAT(0xFF, 65536)")),
        Kind("LONGBLOB", (*odd, "REPEAT(0x00, 70000)")),
        Kind("CHAR(4) BYTE", ("0x00FF", "''")),
    ]


def _labels() -> list[Kind]:
    many = ",".join(f"'m{n}'" for n in range(300))
    bits = ",".join(f"'m{n}'" for n in range(64))
    everything = ",".join(f"m{n}" for n in range(64))
    return [
        Kind("ENUM('a','b')", ("'a'", "'b'", "0", "2")),
        Kind("ENUM('','x','1')", ("''", "'x'", "'1'", "1")),
        Kind(r"ENUM('b''c','x,y','tab\t','é','back\\slash','B')", ("1", "2", "3", "4", "5", "6")),
        Kind("ENUM('é','ÿ') CHARACTER SET latin1", ("1", "2")),
        Kind(f"ENUM({many})", ("'m0'", "'m299'", "'m255'", "'m254'", "0")),
        Kind("SET('a','b','é')", ("''", "'a'", "'é,a'", "7")),
        Kind("SET('x','é') CHARACTER SET latin1", ("3", "0")),
        Kind(f"SET({bits})", ("''", "'m0'", "'m63'", f"'{everything}'", "'m31,m32'")),
        *(
            Kind(f"SET({','.join(repr(f'm{n}') for n in range(count))})", (f"'m{count - 1}'", "''", "'m0'"))
            for count in (8, 9, 16, 17, 24, 25, 33)
        ),
    ]  # fmt: skip


def _documents() -> list[Kind]:
    literals = (
        '{"b": [1, -1, 65535, -32769, 70000, 5000000000, 18446744073709551615], "a": null}',
        "[-9223372036854775808, 9223372036854775807, 9223372036854775808, 1e400]".replace(
            "1e400", "1e308"
        ),
        "[1.0, -0.0, 1e100, 1.5e-7, 123456789012345.0, 1234567890123456.0, 1e15, 1e16, 5e-324, 0.1]",
        '["é 😀", "", "%s", "a,b", "{}"]',
        '{"": null, "é": true, "aa": false, "a": {"deep": [[[]]]}}',
        *("null", "true", "false", "7", "-1", '"text"', "[]", "{}", "1.5"),
        "123456789012345678901234567890",
    )
    built = (
        r"""'["q\\"\\\\ \\b\\f\\n\\r\\t\\u0001\\u001f\\u007f/"]'""",
        r"""'{"nul": "\\u0000"}'""",
        "JSON_ARRAY(CAST(-1.50 AS DECIMAL(10,3)), CAST('9.99' AS DECIMAL(65,30)), CAST(0 AS DECIMAL))",
        "JSON_ARRAY(CAST('2020-02-29 12:34:56.5' AS DATETIME(6)), DATE'2020-02-29', TIMESTAMP'1000-01-01 00:00:00')",
        "JSON_ARRAY(CAST('-838:59:58.000001' AS TIME(6)), TIME'00:00:01', CAST('838:59:59' AS TIME))",
        "JSON_OBJECT('blob', REPEAT(x'00FF', 200), 'bit', b'101', 'empty', x'', 'year', CAST(2020 AS YEAR))",
        "JSON_OBJECT('geometry', ST_GeomFromText('POINT(1 2)'))",
        "JSON_ARRAY(CAST(1 AS UNSIGNED), CAST(-1 AS SIGNED), 1e0, CAST(0.1 AS FLOAT))",
        """CONCAT('[', REPEAT('"xxxxxxxx",', 9000), '1]')""",
        """CONCAT(REPEAT('[', 90), REPEAT(']', 90))""",
    )
    quoted = tuple(
        "'" + literal.replace("\\", "\\\\").replace("'", "''") + "'" for literal in literals
    )
    return [
        Kind("JSON", (*quoted, *built), MYSQL_57),
        Kind("JSON", quoted, Since(mysql=None, mariadb=(10, 2, 7))),
    ]


def _spatials() -> list[Kind]:
    shapes = {
        "POINT": ("POINT(1 2)", "POINT(-180 90)", "POINT(1e-300 1e300)"),
        "LINESTRING": ("LINESTRING(0 0,1 2,3 4)",),
        "POLYGON": ("POLYGON((0 0,10 0,10 10,0 10,0 0),(1 1,2 1,2 2,1 2,1 1))",),
        "MULTIPOINT": ("MULTIPOINT(0 0,1 2)",),
        "MULTILINESTRING": ("MULTILINESTRING((0 0,1 2),(3 4,5 6))",),
        "MULTIPOLYGON": ("MULTIPOLYGON(((0 0,1 0,1 1,0 0)),((5 5,6 5,6 6,5 5)))",),
        "GEOMETRYCOLLECTION": ("GEOMETRYCOLLECTION(POINT(1 2),LINESTRING(0 0,1 2))",),
    }
    every = [text for texts in shapes.values() for text in texts]
    return [
        *(
            Kind(name, tuple(f"ST_GeomFromText('{text}')" for text in texts))
            for name, texts in shapes.items()
        ),
        Kind("GEOMETRY", tuple(f"ST_GeomFromText('{text}')" for text in every)),
        # In this reference system the server reads the latitude first.
        Kind("GEOMETRY", tuple(f"ST_GeomFromText('{text}', 4326)" for text in ("POINT(10 20)", "LINESTRING(0 0,1 2)"))),
        Kind("GEOMETRY", ("ST_GeomFromText('POINT(1 2)', 3857)",)),
        Kind("POINT SRID 4326", ("ST_GeomFromText('POINT(10 20)', 4326)",), MYSQL_8),
        Kind("GEOMETRY", ("ST_GeomFromText('GEOMETRYCOLLECTION EMPTY')",), MYSQL_8),
    ]  # fmt: skip


def _others() -> list[Kind]:
    mysql_9, mariadb_11 = Since(mysql=(9, 0), mariadb=None), Since(mysql=None, mariadb=(11, 7))
    compressible = ("''", "'s'", "REPEAT('é', 250)")
    return [
        Kind("VECTOR(3)", ("STRING_TO_VECTOR('[1,2,3]')", "STRING_TO_VECTOR('[-1.5,1000000,0.5]')"), mysql_9),
        Kind("VECTOR(3)", ("VEC_FromText('[1,2,3]')", "VEC_FromText('[-1.5,1000000,0.5]')"), mariadb_11),
        Kind(
            "UUID",
            ("'123e4567-e89b-12d3-a456-426655440000'", "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'01890a5d-ac96-774b-bcce-b302099a8057'"),
            Since(mysql=None, mariadb=(10, 7)),
        ),
        Kind("INET4", ("'1.2.3.0'", "'0.0.0.0'", "'255.255.255.255'"), Since(mysql=None, mariadb=(10, 10))),
        Kind("INET6", ("'::'", "'::ffff:1.2.3.4'", "'1:0:0:2::'", "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'", "'::1.2.3.4'"), Since(mysql=None, mariadb=(10, 5))),
        Kind("VARCHAR(300) COMPRESSED CHARACTER SET latin1", compressible, COMPRESSED),
        Kind("TEXT COMPRESSED", (*compressible, "REPEAT('z', 60000)"), COMPRESSED),
        Kind("VARBINARY(300) COMPRESSED", ("''", "0x00", "REPEAT(0x00, 300)"), COMPRESSED),
        Kind("BLOB COMPRESSED", ("''", "0x00", "REPEAT(0x42, 5000)"), COMPRESSED),
        Kind("LONGBLOB COMPRESSED", ("''", "REPEAT(0x42, 70000)"), COMPRESSED),
        Kind("INT INVISIBLE", ("5", "-5"), INVISIBLE),
        Kind("INT AS (id + 1) VIRTUAL", (), COMPUTED),
        Kind("BIGINT AS (id * 2) STORED", (), COMPUTED),
        Kind("VARCHAR(20) AS (CONCAT('é', id)) VIRTUAL", (), COMPUTED),
    ]  # fmt: skip


#: By name: the kinds that are the columns of one table.
FAMILIES: dict[str, tuple[Kind, ...]] = {
    "integers": tuple(_integers()),
    "decimals": tuple(_decimals()),
    "floats": tuple(_floats()),
    "temporals": tuple(_temporals()),
    "strings": tuple(_strings()),
    "binaries": tuple(_binaries()),
    "labels": tuple(_labels()),
    "documents": tuple(_documents()),
    "spatials": tuple(_spatials()),
    "others": tuple(_others()),
}


_ROWS = ("INSERT INTO {} (a) VALUES (1), (2), (3)",)
_CHANGES = (
    "UPDATE {} SET a = a + 10 WHERE a < 3",
    "DELETE FROM {} WHERE a = 3",
    "INSERT INTO {} (a) VALUES (4)",
)
_PERIOD = "id INT, s DATE, e DATE, a INT, PERIOD FOR p (s, e)"
_PERIODS = (
    "INSERT INTO {} VALUES (1, '2020-01-01', '2020-12-31', 1), (2, '1000-01-01', '9999-12-31', 2)",
)
_PORTIONS = (
    "UPDATE {} FOR PORTION OF p FROM '2020-03-01' TO '2020-04-01' SET a = 7",
    "DELETE FROM {} FOR PORTION OF p FROM '2020-06-01' TO '2020-07-01'",
)
_PORTIONED = Since(mysql=None, mariadb=(10, 4, 3))
_OVERLAPS = Since(mysql=None, mariadb=(10, 5, 3))
_VERSIONED = Since(mysql=None, mariadb=(10, 3, 4))
_ROW_TIMES = (
    "rs {0} GENERATED ALWAYS AS ROW START, re {0} GENERATED ALWAYS AS ROW END,"
    " PERIOD FOR SYSTEM_TIME (rs, re)"
)
_HISTORY = (
    *_CHANGES,
    "DELETE HISTORY FROM {}",
    "UPDATE {} SET a = a + 1",
    "DELETE FROM {} WHERE a = 5",
)

#: Tables with hidden or special columns.
TABLES: tuple[Form, ...] = (
    Form("gipk", "CREATE TABLE {} (a INT)", _ROWS, _CHANGES, Since(mysql=(8, 0, 30), mariadb=None), "sql_generate_invisible_primary_key = ON"),
    Form("invisible_key", "CREATE TABLE {} (id INT AUTO_INCREMENT PRIMARY KEY INVISIBLE, a INT)", _ROWS, _CHANGES, INVISIBLE),
    Form("functional", "CREATE TABLE {} (id INT AUTO_INCREMENT PRIMARY KEY, a INT, KEY ((a * 2)))", _ROWS, _CHANGES, Since(mysql=(8, 0, 13), mariadb=None)),
    Form("versioned", "CREATE TABLE {} (id INT AUTO_INCREMENT PRIMARY KEY, a INT) WITH SYSTEM VERSIONING", _ROWS, _HISTORY, _VERSIONED),
    Form("versioned_keyless", "CREATE TABLE {} (a INT) WITH SYSTEM VERSIONING", _ROWS, _HISTORY, _VERSIONED),
    Form("row_times", f"CREATE TABLE {{}} (id INT AUTO_INCREMENT PRIMARY KEY, a INT, {_ROW_TIMES.format('TIMESTAMP(6)')}) WITH SYSTEM VERSIONING", _ROWS, _HISTORY, _VERSIONED),
    Form("row_transactions", f"CREATE TABLE {{}} (id INT AUTO_INCREMENT PRIMARY KEY, a INT, {_ROW_TIMES.format('BIGINT UNSIGNED')}) WITH SYSTEM VERSIONING", _ROWS, _CHANGES, _VERSIONED),
    Form("period", f"CREATE TABLE {{}} ({_PERIOD})", _PERIODS, _PORTIONS, _PORTIONED),
    Form("overlaps", f"CREATE TABLE {{}} ({_PERIOD}, PRIMARY KEY (id, p WITHOUT OVERLAPS))", _PERIODS, _PORTIONS, _OVERLAPS),
)  # fmt: skip


def family(name: str, server: str, version: Version) -> list[Kind]:
    """The kinds of a family that a release has."""
    kinds = [kind for kind in FAMILIES[name] if kind.since.includes(server, version)]
    if version >= (5, 6, 1):
        return kinds
    return [
        kind._replace(values=tuple(value.removeprefix("ST_") for value in kind.values))
        for kind in kinds
    ]
