"""
DDL statements that servers accept, and how their effects change the tracked tables.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.change import SchemaChange, Truncate
from engine.schema import Table, TableId

__all__ = ["MARIADB_ONLY", "MYSQL_ONLY", "SAME_ON_ALL", "Tables", "everything", "follow"]

Tables = dict[TableId, Table]

SAME_ON_ALL = [
    """CREATE TABLE `a``b` (id INT AUTO_INCREMENT, `näme` VARCHAR(20) NOT NULL DEFAULT 'it''s',
       note TEXT COMMENT 'with ) and , in it', PRIMARY KEY (id), UNIQUE KEY (`näme`),
       INDEX by_note (note(10)), KEY both_of (id, `näme`(5))) ENGINE=InnoDB CHARSET=latin1""",
    '''CREATE TABLE types (
       a TINYINT UNSIGNED, b SMALLINT(4) ZEROFILL, c MEDIUMINT SIGNED, d INTEGER, e BIGINT UNSIGNED,
       f DEC(10), g NUMERIC(65,30) UNSIGNED, h FIXED, i FLOAT, j FLOAT(30), k FLOAT(7,4),
       l DOUBLE PRECISION, m REAL, n BOOL, o BIT, p BIT(64), q DATE, r TIME(3), s DATETIME(6),
       t TIMESTAMP(2) NULL, u YEAR, v CHAR, w CHAR(10) BYTE, x VARCHAR(300) BINARY,
       y NATIONAL VARCHAR(5), z NCHAR(7), aa CHAR VARYING(9), ab BINARY, ac VARBINARY(255),
       ad TINYBLOB, ae BLOB(70000), af LONG VARBINARY, ag LONG, ah TINYTEXT CHARACTER SET ascii,
       ai TEXT(255), aj TEXT(64) CHARSET latin1, ak MEDIUMTEXT COLLATE utf8mb4_bin, al LONGTEXT,
       am ENUM('a','b''c','d\\'e','tail  ', 'back\\\\slash', "quoted ""x""") DEFAULT 'a',
       an SET('x','y') CHARACTER SET latin1 COLLATE latin1_bin, ao GEOMETRY, ap POINT NOT NULL,
       aq VARCHAR(10) CHARACTER SET binary, ar CHARACTER(3) UNICODE, at TEXT ASCII,
       au INT4, av MIDDLEINT, aw CHARACTER VARYING(12), ax MULTIPOLYGON, ay DOUBLE(8,2) UNSIGNED
       ) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_general_ci''',
    "CREATE TABLE IF NOT EXISTS types (other INT)",
    "CREATE TABLE serials (id SERIAL, v INT UNIQUE, w INT NOT NULL UNIQUE)",
    "CREATE TABLE noted (id INT KEY /* plain */, -- rest\n x INT # rest\n, 1st INT, $y INT)",
    "CREATE TABLE unkeyed (a INT, b INT NOT NULL, c INT NOT NULL, UNIQUE (a), KEY (b))",
    (
        "CREATE TABLE uniquely (a INT NOT NULL, b INT NOT NULL, c INT NOT NULL, "
        "UNIQUE two (a, b), UNIQUE one (c))"
    ),
    (
        "CREATE TABLE prefixed (a VARCHAR(20) NOT NULL, b VARCHAR(20) NOT NULL, UNIQUE (a(5)), "
        "UNIQUE (b(20)))"
    ),
    "CREATE TABLE likeness LIKE uniquely",
    "CREATE TABLE likeness_2 (LIKE `a``b`)",
    "CREATE TEMPORARY TABLE scratch (a INT)",
    "DROP TEMPORARY TABLE scratch",
    "CREATE TABLE parent (id INT PRIMARY KEY, CHECK (id > 0), CONSTRAINT ck CHECK (id < 100))",
    (
        "CREATE TABLE child (id INT PRIMARY KEY, parent_id INT, other INT REFERENCES parent (id), "
        "CONSTRAINT to_parent FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE SET NULL "
        "ON UPDATE CASCADE)"
    ),
    "ALTER TABLE child DROP FOREIGN KEY to_parent, DROP INDEX to_parent",
    "CREATE TABLE parent_2 (id INT, tenant INT, PRIMARY KEY (tenant, id))",
    "CREATE TABLE elder (id INT PRIMARY KEY)",
    (
        "CREATE TABLE child_2 (id INT PRIMARY KEY, p INT, t INT, q INT, r INT, up INT, INDEX (up), "
        "FOREIGN KEY (t, p) REFERENCES parent_2 (tenant, id) ON UPDATE NO ACTION ON DELETE CASCADE,"
        " FOREIGN KEY (up) REFERENCES child_2 (id) ON DELETE SET NULL)"
    ),
    (
        "ALTER TABLE child_2 ADD FOREIGN KEY (q) REFERENCES elder (id) ON DELETE RESTRICT,"
        " ADD CONSTRAINT named FOREIGN KEY (r) REFERENCES elder (id) ON UPDATE CASCADE"
    ),
    "ALTER TABLE elder CHANGE id Ident INT",
    "RENAME TABLE child_2 TO child_3, parent_2 TO parent_3",
    "ALTER TABLE child_3 CHANGE p pp BIGINT, DROP FOREIGN KEY child_3_ibfk_1",
    "ALTER TABLE child_3 ADD FOREIGN KEY (q) REFERENCES elder (Ident) ON DELETE CASCADE",
    "ALTER TABLE child_3 DROP CONSTRAINT named",
    "ALTER TABLE elder RENAME elders",
    "CREATE TABLE child_4 (p INT) ENGINE = MyISAM",
    "ALTER TABLE elders RENAME elder, CHANGE Ident id INT",
    (
        "CREATE TABLE computed (a INT, b INT GENERATED ALWAYS AS (a + 1) VIRTUAL, "
        "c INT AS (a * (2 + 1)) STORED, d INT DEFAULT (1 + 1), "
        "e TIMESTAMP DEFAULT CURRENT_TIMESTAMP "
        "ON UPDATE CURRENT_TIMESTAMP, f DATETIME(3) DEFAULT NOW(3) ON UPDATE NOW(3))"
    ),
    (
        "CREATE TABLE divided (id INT NOT NULL, at DATE NOT NULL, PRIMARY KEY (id, at)) "
        "PARTITION BY RANGE (YEAR(at)) (PARTITION p0 VALUES LESS THAN (2000), "
        "PARTITION p1 VALUES LESS THAN MAXVALUE)"
    ),
    "ALTER TABLE divided ANALYZE PARTITION p0",
    (
        "ALTER TABLE divided REORGANIZE PARTITION p1 INTO (PARTITION p1 VALUES LESS THAN (2010), "
        "PARTITION p2 VALUES LESS THAN MAXVALUE)"
    ),
    "ALTER TABLE divided REMOVE PARTITIONING",
    (
        "CREATE TABLE hinted (a INT /*!50606 NOT NULL */, b INT /*!99999 NOT NULL */) "
        "/*!50100 PARTITION BY HASH (a) PARTITIONS 2 */"
    ),
    (
        "CREATE TABLE wide (id INT KEY, a TINYTEXT, b TEXT, c MEDIUMTEXT, d VARCHAR(9), "
        "e ENUM('x'), "
        "f TEXT CHARSET utf8mb4, g VARBINARY(3)) CHARSET latin1"
    ),
    "ALTER TABLE wide CONVERT TO CHARACTER SET utf8mb4",
    "CREATE TABLE sorted (k VARCHAR(9) CHARSET utf8mb4 KEY, l VARCHAR(9)) COLLATE utf8mb4_bin",
    "ALTER TABLE sorted ADD m VARCHAR(9), ADD n VARCHAR(9) COLLATE utf8_general_ci",
    "ALTER TABLE sorted MODIFY l VARCHAR(9) CHARSET latin1, MODIFY m VARCHAR(9) CHARSET utf8mb4",
    "DROP TABLE sorted",
    "ALTER TABLE wide ADD h VARCHAR(4), CONVERT TO CHARSET utf8 COLLATE utf8_bin",
    "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(10), c INT) CHARACTER SET latin1",
    "ALTER TABLE t ADD d INT",
    "ALTER TABLE t ADD COLUMN e INT NOT NULL DEFAULT -1 FIRST, ADD f VARCHAR(5) AFTER a;",
    "ALTER TABLE t ADD (g DECIMAL(5,2) DEFAULT 1.5, h TEXT, KEY by_g (g))",
    "ALTER TABLE t DROP COLUMN c, DROP d",
    "ALTER TABLE t CHANGE a renamed BIGINT NOT NULL, CHANGE COLUMN b a VARCHAR(30)",
    "ALTER TABLE t MODIFY e SMALLINT AFTER h, MODIFY COLUMN h MEDIUMTEXT FIRST",
    "ALTER TABLE t RENAME COLUMN a TO f2, RENAME COLUMN renamed TO a",
    "ALTER TABLE t RENAME COLUMN a TO f2, RENAME COLUMN f2 TO a",
    "ALTER TABLE t ADD x1 INT AFTER id, ADD x2 INT AFTER x1, DROP COLUMN e",
    "ALTER TABLE t ADD COLUMN e CHAR(3)",
    (
        "ALTER TABLE t ADD INDEX (x1), ADD UNIQUE KEY u12 (x1, x2), ADD FULLTEXT KEY words (h), "
        "ADD CONSTRAINT named UNIQUE (x2)"
    ),
    "ALTER TABLE t RENAME INDEX u12 TO u21, DROP KEY x1",
    "ALTER TABLE t DROP KEY u21, DROP KEY named, ADD KEY pair (x1, x2)",
    "ALTER TABLE t DROP x2",
    "ALTER TABLE t CHANGE X1 x1 INT NOT NULL",
    "ALTER TABLE t DROP PRIMARY KEY",
    "ALTER TABLE t ADD PRIMARY KEY USING BTREE (id) COMMENT 'again'",
    "CREATE UNIQUE INDEX made ON t (g, x1) COMMENT 'x' ALGORITHM=INPLACE LOCK=NONE",
    "DROP INDEX made ON t",
    "ALTER TABLE t ALTER COLUMN g SET DEFAULT 2.25, ALTER a DROP DEFAULT",
    "ALTER TABLE t ENGINE=InnoDB, COMMENT='a, b', AUTO_INCREMENT 7, ROW_FORMAT=DYNAMIC",
    "ALTER TABLE t ADD y INT, ALGORITHM=COPY, LOCK=SHARED",
    "ALTER TABLE t FORCE",
    "ALTER TABLE t ORDER BY a DESC, id",
    "ALTER TABLE t DISABLE KEYS",
    "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "ALTER TABLE t DEFAULT CHARACTER SET utf8mb4, ADD z VARCHAR(3)",
    "ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0)",
    "ALTER TABLE t DROP CONSTRAINT positive",
    "ALTER TABLE t ADD COLUMN late INT, RENAME TO t2",
    "RENAME TABLE t2 TO swap, uniquely TO t2, swap TO uniquely",
    "RENAME TABLE `a``b` TO ab, likeness TO `like`",
    "TRUNCATE types",
    "TRUNCATE TABLE serials;",
    "DROP TABLE IF EXISTS noted, nothing /* generated by server */",
    "DROP TABLE `like`, likeness_2",
    "CREATE VIEW seen AS SELECT 1 AS x",
    "DROP VIEW seen",
]

MYSQL_ONLY = [
    (
        "CREATE TABLE j (id INT PRIMARY KEY, doc JSON, v INT INVISIBLE, KEY f ((v + 1)), "
        "g GEOMCOLLECTION, p POINT NOT NULL SRID 4326, SPATIAL INDEX (p))"
    ),
    "ALTER TABLE j ALTER COLUMN v SET VISIBLE, ALTER INDEX f INVISIBLE",
    "ALTER TABLE j ADD UNIQUE KEY pair (id, v)",
    "ALTER TABLE j DROP KEY f, DROP v",
    "ALTER TABLE j ADD t1 TEXT DEFAULT ('x'), ADD v1 VECTOR(3)",
    "DROP TABLE j",
]

MARIADB_ONLY = [
    "CREATE OR REPLACE TABLE types (id INT KEY, doc JSON, u UUID, i INET6, c TEXT COMPRESSED)",
    "SET STATEMENT max_statement_time = 10 FOR ALTER TABLE types ADD x INT",
    "ALTER TABLE types ADD COLUMN IF NOT EXISTS x BIGINT, ADD IF NOT EXISTS y INT",
    "ALTER TABLE types DROP COLUMN IF EXISTS nothing, DROP IF EXISTS y",
    "ALTER TABLE types WAIT 5 MODIFY IF EXISTS nothing INT, MODIFY IF EXISTS x BIGINT",
    "ALTER TABLE IF EXISTS types ADD INDEX IF NOT EXISTS by_x (x)",
    "ALTER TABLE types ADD p INT /*M!100301 NOT NULL */",
    "CREATE OR REPLACE INDEX by_x ON types (x, id)",
    "DROP INDEX IF EXISTS by_x ON types",
    "CREATE TABLE sorted (k VARCHAR(9) COLLATE uca1400_ai_ci PRIMARY KEY) CHARSET utf8mb4",
    "ALTER TABLE sorted MODIFY k VARCHAR(9) CHARSET utf8mb4 COLLATE uca1400_as_cs",
    "DROP TABLE sorted",
    "CREATE SEQUENCE counter",
    "DROP SEQUENCE counter",
    "ALTER ONLINE TABLE types COMMENT 'x'",
    "ALTER IGNORE TABLE types ADD z INT",
]


def follow(tables: Tables, effects: Iterable[SchemaChange | Truncate]) -> None:
    """Apply the effects of a statement to ``tables``."""
    for effect in effects:
        if isinstance(effect, SchemaChange):
            if effect.before is not None:
                assert tables.pop(effect.before.id) == effect.before
            if effect.after is not None:
                assert effect.after.id not in tables
                tables[effect.after.id] = effect.after


def everything(id: TableId) -> bool:
    """Select every table."""
    return True
