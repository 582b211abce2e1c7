"""Column types of MySQL and MariaDB: source type texts, column definitions and neutral types."""

from __future__ import annotations

import pytest

from engine.databases.mysql.types import neutral_type, parse_type, same_type
from engine.errors import SchemaError
from engine.schema import Type

NEUTRAL = {
    "tinyint(1)": Type("int8"),
    "tinyint": Type("int8"),
    "tinyint(3) unsigned": Type("uint8"),
    "smallint(5) unsigned zerofill": Type("uint16"),
    "mediumint": Type("int24"),
    "mediumint unsigned": Type("uint24"),
    "int(11)": Type("int32"),
    "int zerofill": Type("uint32"),
    "bigint(20) unsigned": Type("uint64"),
    "decimal(65,30)": Type("decimal", precision=65, scale=30),
    "decimal(10,0) unsigned": Type("decimal", precision=10, scale=0),
    "float(7,2)": Type("float32"),
    "float unsigned": Type("float32"),
    "double(20,3)": Type("float64"),
    "bit(9)": Type("bit", length=9),
    "year(4)": Type("int16"),
    "date": Type("date"),
    "time(3)": Type("interval", scale=3),
    "datetime(6)": Type("datetime", scale=6),
    "timestamp": Type("timestamp"),
    "datetime(6) /* mariadb-5.3 */": Type("datetime", scale=6),
    "varchar(20) character set latin1 collate latin1_swedish_ci": Type("text", length=20),
    "varchar(100) /*M!100301 COMPRESSED*/ character set utf8mb4": Type("text", length=100),
    "char(3) character set binary": Type("binary", length=3),
    "longtext character set utf8mb4 collate utf8mb4_bin": Type("text"),
    "varbinary(300)": Type("binary", length=300),
    "mediumblob": Type("binary"),
    "json": Type("json"),
    "geometrycollection": Type("geometry"),
    "point": Type("geometry"),
    "vector(3)": Type("binary"),
    "uuid": Type("uuid"),
    "inet6": Type("text", length=39),
    "enum('a','b''c','d\\\\e','x\\ny',',',')','q\"z') character set latin1": Type(
        "enum", members=("a", "b'c", "d\\e", "x\ny", ",", ")", 'q"z')
    ),
    "set('x','y z')": Type("set", members=("x", "y z")),
}


@pytest.mark.parametrize(("source_type", "expected"), NEUTRAL.items())
def test_a_source_type_has_a_neutral_type(source_type: str, expected: Type) -> None:
    assert neutral_type(source_type) == expected


@pytest.mark.parametrize(
    ("definition", "created"),
    [
        ("INTEGER(11)", "int"),
        ("INT8", "bigint"),
        ("MIDDLEINT UNSIGNED", "mediumint unsigned"),
        ("BOOL", "tinyint(1)"),
        ("TINYINT(1)", "tinyint(1)"),
        ("TINYINT(1) UNSIGNED", "tinyint unsigned"),
        ("TINYINT(4)", "tinyint"),
        ("SERIAL", "bigint unsigned"),
        ("DEC", "decimal(10,0)"),
        ("NUMERIC(12)", "decimal(12,0)"),
        ("FIXED (12, 2) UNSIGNED", "decimal(12,2) unsigned"),
        ("DOUBLE PRECISION", "double"),
        ("REAL(10,2)", "double(10,2)"),
        ("FLOAT(24)", "float"),
        ("FLOAT(25)", "double"),
        ("FLOAT4", "float"),
        ("BIT", "bit(1)"),
        ("CHAR", "char(1)"),
        ("CHARACTER VARYING(10)", "varchar(10)"),
        ("CHARACTER(5) CHARACTER SET utf8", "char(5) character set utf8mb3"),
        ("NATIONAL VARCHAR(5)", "varchar(5) character set utf8mb3"),
        ("NCHAR VARCHAR(5)", "varchar(5) character set utf8mb3"),
        ("CHAR(5) ASCII", "char(5) character set latin1"),
        ("CHAR(5) CHARACTER SET ascii", "char(5) character set ascii"),
        ("CHAR(5) BYTE", "binary(5)"),
        ("ENUM('a') CHARACTER SET binary", "enum('a')"),
        ("TEXT CHARACTER SET latin1", "text character set latin1"),
        ("TEXT BINARY", "text"),
        ("VARCHAR(5) CHARSET = koi8r", "varchar(5) character set koi8r"),
        (
            "VARCHAR(5) COLLATE utf8mb4_bin",
            "varchar(5) character set utf8mb4 collate utf8mb4_bin",
        ),
        ("TEXT CHARACTER SET binary", "blob"),
        ("TEXT(100) CHARACTER SET utf8mb4", "text character set utf8mb4"),
        ("TEXT(63) CHARACTER SET utf8mb4", "tinytext character set utf8mb4"),
        ("BLOB(70000)", "mediumblob"),
        ("LONG VARCHAR", "mediumtext"),
        ("LONG VARBINARY", "mediumblob"),
        ("DATETIME(0)", "datetime"),
        ("YEAR(4)", "year"),
        ("GEOMCOLLECTION", "geometrycollection"),
        ("ENUM('a ',\"b\")", "enum('a','b')"),
        ("varchar(9) /*!100301 COMPRESSED*/", "varchar(9) /*M!100301 COMPRESSED*/"),
    ],
)
def test_a_column_definition_is_parsed_as_the_server_does(definition: str, created: str) -> None:
    assert str(parse_type(definition)) == created
    assert parse_type(created) == parse_type(definition)


def test_attributes_that_do_not_change_values_are_ignored() -> None:
    assert same_type("int(11)", "int")
    assert same_type("int(10) unsigned zerofill", "int unsigned")
    assert same_type(
        "char(1) character set latin1 collate latin1_bin", "char(1) character set latin1"
    )
    assert not same_type("int", "int unsigned")
    assert not same_type("char(1) character set latin1", "char(1) character set utf8mb4")
    assert not same_type("enum('a','b')", "enum('b','a')")


@pytest.mark.parametrize("text", ["nonsense", "", "varchar(x)", "varchar", "(1)"])
def test_an_unknown_type_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match="is unknown"):
        parse_type(text)
