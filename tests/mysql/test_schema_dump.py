"""
Schema dumps: what mysqldump and mariadb-dump write, and files that people write.

The dumps in `tests/fixtures/schema` are those of real servers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.schema import TableId
from sources.mysql.ddl.definitions import Definitions
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.script import script_statements
from sources.mysql.schema_dump import read_schema

DUMPS = Path(__file__).parents[1] / "fixtures" / "schema"


def definitions(path: Path, *, mariadb: bool = False) -> Definitions:
    found = Definitions()
    read_schema(path, found, Dialect(mariadb))
    return found


def written(folder: Path, text: str | bytes, name: str = "dump.sql") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def columns(found: Definitions, table: str) -> list[tuple[str, str]]:
    definition = found.find(TableId(*table.split(".")))
    assert definition is not None
    return [(column.name, column.source_type) for column in definition.columns]


def split(script: bytes) -> list[bytes]:
    return [statement.sql for statement in script_statements(script)]


# -- real dumps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("mysql-9.7-databases", "text character set utf8mb4 collate utf8mb4_0900_ai_ci", "latin1"),
        (
            "mariadb-10.11-data",
            "text character set utf8mb4 collate utf8mb4_general_ci",
            "latin1 collate latin1_swedish_ci",
        ),
    ],
)
def test_a_real_dump(name: str, text: str, label: str) -> None:
    """With a partitioned table, a trigger, a view, a procedure, and data or CREATE DATABASE."""
    found = definitions(DUMPS / f"{name}.sql", mariadb=name.startswith("mariadb"))
    assert columns(found, "dd.t") == [
        ("id", "int"),
        ("n", f"varchar(20) character set {label}"),
        ("x", text),
        ("e", f"enum('a''b','c;d') character set {label}"),
    ]
    table = found.find(TableId("dd", "u"))
    assert table is not None
    assert table.key == (0,)
    assert found.find(TableId("dd", "v")) is None
    known = {name: found.is_known(TableId("dd", name)) for name in ("t", "u", "v", "missing")}
    assert known == {"t": True, "u": True, "v": True, "missing": False}


def test_hidden_columns_and_expressions_of_a_real_dump() -> None:
    table = definitions(DUMPS / "mysql-9.7-databases.sql").find(TableId("dd", "fi"))
    assert table is not None
    assert table.names == ("id", "a", "h", "g")
    assert [column.generated for column in table.columns] == [False, False, False, True]
    assert table.indexes == ()


# -- files that people and other programs write ----------------------------------------------------


def test_a_view_that_the_dump_creates_as_a_table_first(tmp_path: Path) -> None:
    """mysqldump before 5.7.8 creates views as MyISAM tables, until all tables are there."""
    path = written(
        tmp_path,
        "USE `shop`;\n"
        "/*!50001 CREATE TABLE `v` (\n  `id` tinyint NOT NULL\n) ENGINE=MyISAM */;\n"
        "CREATE TABLE `t` (`id` int(11) NOT NULL) DEFAULT CHARSET=utf8;\n"
        "/*!50001 DROP TABLE IF EXISTS `v`*/;\n"
        "/*!50001 CREATE ALGORITHM=UNDEFINED */\n"
        "/*!50013 DEFINER=`root`@`localhost` SQL SECURITY DEFINER */\n"
        "/*!50001 VIEW `v` AS select `t`.`id` AS `id` from `t` */;\n",
    )
    found = definitions(path)
    assert set(found.tables) == {TableId("shop", "t")}


def test_keys_that_are_added_after_the_table(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "CREATE TABLE shop.t (`id` int(10) UNSIGNED NOT NULL, `n` text) DEFAULT CHARSET=latin1;\n"
        "INSERT INTO shop.t (`id`, `n`) VALUES (1, 'it''s; CREATE TABLE x (a INT);\n'),\n"
        "(2, 'a \\'; -- \"');\n"
        "ALTER TABLE shop.t ADD PRIMARY KEY (`id`), ADD KEY `n` (`n`(10));\n"
        "ALTER TABLE shop.t MODIFY `id` int(10) UNSIGNED NOT NULL AUTO_INCREMENT, AUTO_INCREMENT=3;"
        "\n/*!40000 ALTER TABLE shop.t DISABLE KEYS */;\n",
    )
    table = definitions(path).find(TableId("shop", "t"))
    assert table is not None
    assert (table.names, table.key, len(table.indexes)) == (("id", "n"), (0,), 1)


def test_a_folder_of_files(tmp_path: Path) -> None:
    """mydumper names the database before a point; a sub-folder names it, too."""
    written(tmp_path, "CREATE TABLE `a` (id INT, n TEXT);", "shop.a-schema.sql")
    written(tmp_path, "CREATE DATABASE `shop` CHARACTER SET cp1251;", "shop-schema-create.sql")
    written(tmp_path, "CREATE TABLE b (id INT)", "old/b.sql")
    found = definitions(tmp_path)
    assert set(found.tables) == {TableId("shop", "a"), TableId("old", "b")}
    assert columns(found, "shop.a")[1] == ("n", "text character set cp1251")


def test_the_text_has_the_charset_of_set_names(tmp_path: Path) -> None:
    table = "CREATE TABLE shop.{0} (`größe` enum('ä') CHARACTER SET utf8mb4);\n"
    path = written(
        tmp_path,
        b"/*!40101 SET NAMES latin1 */;\n"
        + table.format("a").encode("cp1252")
        + b"/*!40101 SET character_set_client = utf8 */;\n"
        + table.format("b").encode()
        + b"/*!40101 SET character_set_client = @saved_cs_client */;\n"
        + table.format("c").encode("cp1252"),
    )
    found = definitions(path)
    expected = [("größe", "enum('ä') character set utf8mb4")]
    assert [columns(found, f"shop.{name}") for name in "abc"] == [expected] * 3


@pytest.mark.parametrize(
    "line",
    [
        "-- CHANGE MASTER TO MASTER_LOG_FILE='mysql-bin.000042', MASTER_LOG_POS=154;",
        "CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='mysql-bin.000042', SOURCE_LOG_POS=154;",
        "-- CHANGE MASTER TO MASTER_LOG_FILE='mysql-bin.000042', MASTER_LOG_POS=154, x=1;",
    ],
)
def test_the_place_of_a_dump_in_the_log(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, f"USE shop;\n\n{line}\n\nCREATE TABLE t (id INT);\n")
    assert read_schema(path, Definitions(), Dialect()) == "mysql-bin.000042:154"


def test_a_table_of_an_unknown_database_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "-- tables\n\nCREATE TABLE a (id INT);\n")
    with pytest.raises(ConfigError, match=r"dump\.sql:3: .* database") as caught:
        definitions(path)
    assert "USE" in caught.value.hint


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.sql"):
        definitions(tmp_path / "missing.sql")
    with pytest.raises(ConfigError, match=r"\.sql"):
        definitions(tmp_path)
    assert not definitions(written(tmp_path, "")).tables


# -- the cut into statements -----------------------------------------------------------------------


def test_statements_end_at_the_delimiter_and_nowhere_else() -> None:
    assert split(b"a 'x;\\';'; b `;`; c \"\\\";\" /* ; */ -- ;\n; # ;\nd") == [
        b"a 'x;\\';'",
        b"b `;`",
        b'c "\\";" /* ; */ -- ;\n',
        b"d",
    ]
    assert split(b"delimiter //\nx; y / 2//\nDELIMITER ;\nz;;") == [b"x; y / 2", b"z"]
    assert split(b"use `a;b`\nx; USE c; y") == [b"USE `a;b`", b"x", b"USE c", b"y"]
    assert split(b"/*!40101 SET a=1 */;/*M!999999\\- enable the sandbox mode */ x") == [
        b"/*!40101 SET a=1 */",
        b"x",
    ]


@pytest.mark.parametrize("script", [b"", b";;", b"'", b"x '; y", b"/*", b"a /* ; b", b"`;", b"\\"])
def test_any_bytes_are_cut(script: bytes) -> None:
    nothing = bytes.maketrans(b"", b"")
    cut = b"".join(split(script))
    assert cut.translate(nothing, b"; ") == script.translate(nothing, b"; ")


def test_a_long_script_takes_one_pass() -> None:
    row = b"(1,'" + b"x" * 100 + b"\\'; '),"
    script = b"INSERT INTO t VALUES " + row * 20_000 + b"(2);\nCREATE TABLE t (a INT);\n"
    assert [statement.line for statement in script_statements(script)] == [1, 2]
