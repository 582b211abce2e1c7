"""Chunks: every row once, in key order, for keys of every type."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from engine.databases.mysql.connect import prepare, query
from engine.errors import ConfigError, ShapeChanged, SourceError, TableUnreadable
from engine.recovery import TooLarge
from sources.mysql.position import parse_position
from sources.mysql.settings import MySQLSettings
from sources.mysql.snapshot import chunks as chunks_module
from sources.mysql.snapshot.keyset import Keyset
from sources.mysql.snapshot.sessions import Sessions
from tests.support.mysql_chunks import MakeReader, current_position, read_chunks, rows_of
from tests.support.mysql_log import live_table, selected_rows
from tests.support.servers import AnyServer, connect_mysql

Fresh = Callable[[AnyServer], str]
MANY = 1 << 20


# Kind of key → the definitions of its columns, and the SQL values of row n.
KEYS: dict[str, tuple[str, Callable[[int], str]]] = {
    "int": ("k INT", lambda n: str(n * 7 - 500)),
    "unsigned": ("k BIGINT UNSIGNED", lambda n: str(2**63 - 100 + n)),
    "decimal": ("k DECIMAL(20,3)", lambda n: f"{n - 80}.{n:03d}"),
    "float": ("k FLOAT", lambda n: repr(n * 0.1 - 7)),
    "double": ("k DOUBLE", lambda n: repr((n - 80) * 1.1e20)),
    "bit": ("k BIT(40)", lambda n: str(n << 31)),
    "year": ("k YEAR", lambda n: str(1901 + n)),
    "date": ("k DATE", lambda n: f"'2020-{n // 32:02d}-{n % 32:02d}'"),
    "datetime": ("k DATETIME(6)", lambda n: f"'20{n % 100:02d}-01-01 00:00:00.{n:06d}'"),
    "timestamp": ("k TIMESTAMP(3) NULL", lambda n: f"'2020-03-29 0{n % 9}:30:00.{n:03d}'"),
    "time": ("k TIME(2)", lambda n: f"'{n * 10 - 800}:00:00.{n % 100:02d}'"),
    "text": ("k VARCHAR(50)", lambda n: f"'{'aAéÉßz😀'[n % 6]}{n}'"),
    "char": ("k CHAR(50)", lambda n: f"'{'zZ'[n % 2]}''\\\\{n} '"),
    "latin1": ("k VARCHAR(50) CHARACTER SET latin1", lambda n: f"_latin1 0x{n + 90:02X}{n:04X}"),
    "sjis": ("k VARCHAR(50) CHARACTER SET sjis", lambda n: f"'{chr(0x3041 + n % 80)}{n}'"),
    "utf8mb3": ("k VARCHAR(50) CHARACTER SET utf8mb3", lambda n: f"'{chr(0xE0 + n % 20)}{n}'"),
    "binary": ("k BINARY(4)", lambda n: f"0x{n * 50000:08X}"),
    "varbinary": ("k VARBINARY(9)", lambda n: f"0x{n:02X}" if n else "''"),
    "enum, int": ("k ENUM('z','a','m'), l INT", lambda n: f"{1 + n % 3}, {n // 3}"),
    "enum with an empty member, int": (
        "k ENUM('a','','z'), l INT",
        lambda n: f"{1 + n % 3}, {n // 3}",
    ),
    "set, text": ("k SET('z','a'), l VARCHAR(9)", lambda n: f"{n % 4}, '{n // 4}'"),
    "text, date, int": (
        "k VARCHAR(9), l DATE, m INT",
        lambda n: f"'{'aB'[n % 2]}', '2020-01-{1 + n // 2 % 5:02d}', {n}",
    ),
}
MARIADB_KEYS: dict[str, tuple[str, Callable[[int], str]]] = {
    "uuid": ("k UUID", lambda n: f"'{n * 7919 % 256:02x}3e4567-e89b-12d3-a456-4266554400{n:02x}'"),
    "inet6": ("k INET6", lambda n: f"'{n:x}::{n:x}'"),
    "point": ("k POINT", lambda n: f"ST_GeomFromText('POINT({n - 70} {n})', {n % 3 * 4326})"),
}
ROWS_PER_TABLE = 150


def test_keys_of_every_type(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    keys = KEYS | (MARIADB_KEYS if mysql_family.kind == "mariadb" else {})
    with connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        for number, (columns, value) in enumerate(keys.values()):
            names = ", ".join(part.split()[0] for part in columns.split(", "))
            values = ", ".join(f"({value(n)}, {n})" for n in range(ROWS_PER_TABLE))
            columns = columns.replace(" NULL", "")
            cursor.execute(f"CREATE TABLE t{number} ({columns}, v INT, PRIMARY KEY ({names}))")
            cursor.execute(f"INSERT INTO t{number} VALUES {values}")
        low_watermark = current_position(connection)
        for number, (kind, (columns, _)) in enumerate(keys.items()):
            table = live_table(connection, database, f"t{number}")
            names = ", ".join(part.split()[0] for part in columns.split(", "))
            expected = selected_rows(mysql_family, table, f"ORDER BY {names}")
            assert len(expected) == ROWS_PER_TABLE
            for readers in (1, 3):
                found = list(reader.chunks(table, None, low_watermark, rows=40, readers=readers))
                assert (kind, rows_of(found)) == (kind, expected)
                assert found[-1].cursor is None
            read = 0
            for chunk in found[:-1]:
                read += len(chunk.rows)
                rest = reader.chunks(table, chunk.cursor, low_watermark, rows=1000, readers=1)
                assert (kind, rows_of(list(rest))) == (kind, expected[read:])
            found_again = reader.rows_of_keys(
                table,
                [tuple(row[it] for it in table.key) for row in expected[:9]],
                low_watermark,
                MANY,
            )
            assert (kind, sorted(found_again.rows)) == (kind, sorted(expected[:9]))


def test_keys_that_read_the_same_are_refused(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    with connect_mysql(mysql_family, database) as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
        cursor.execute("CREATE TABLE t (k ENUM('a','') PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES ('invalid'), ('a')")
        table, low_watermark = live_table(connection, database, "t"), current_position(connection)
    with pytest.raises(TableUnreadable, match="reads like") as stop:
        list(reader.chunks(table, None, low_watermark, rows=1, readers=1))
    assert "CAST(`k` AS UNSIGNED) = 0" in stop.value.hint


def test_a_backfill_that_does_not_advance_is_an_error(
    mysql: AnyServer,
    source_database: str,
    make_reader: MakeReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with connect_mysql(mysql, source_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (k INT PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (1), (2), (3)")
        table, low_watermark = (
            live_table(connection, source_database, "t"),
            current_position(connection),
        )
    monkeypatch.setattr(Keyset, "between", lambda *_: "")
    for readers in (1, 2):
        with pytest.raises(SourceError, match="does not advance"):
            list(make_reader(mysql).chunks(table, None, low_watermark, rows=1, readers=readers))


def test_rows_are_found_by_their_labels(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    """Plain labels by an index; others, also an invalid value, by their numbers."""
    database = fresh_mysql_database(mysql_family)
    with connect_mysql(mysql_family, database) as connection:
        query(connection, "SET sql_mode = ''")
        query(connection, "CREATE TABLE t (k ENUM('a b','z'), s SET('m','n'), PRIMARY KEY (k, s))")
        query(connection, "CREATE TABLE u (k ENUM('a','A','1') PRIMARY KEY)")
        query(connection, "INSERT INTO t VALUES ('a b','m,n'), ('z',''), ('invalid','m')")
        query(connection, "INSERT INTO u VALUES (2), (3)")
        t, u = (live_table(connection, database, name) for name in "tu")
        low = current_position(connection)
        where = Keyset(t).among([("z", "m,n"), ("a b", "n,m")])
        (plan,) = query(connection, f"EXPLAIN FORMAT = TRADITIONAL SELECT * FROM t{where}")
        possible_keys = plan[-6 if len(plan) == 10 else -7]
    reader, keys = make_reader(mysql_family), [("a b", "n,m"), ("z", ""), ("", "m"), ("z", "none")]
    found = reader.rows_of_keys(t, keys, low, MANY).rows
    assert sorted(found) == [("", "m"), ("a b", "m,n"), ("z", "")]
    found = reader.rows_of_keys(u, [("a",), ("A",), ("1",), ("b",)], low, MANY).rows
    assert sorted(found) == [("1",), ("A",)]
    assert possible_keys == "PRIMARY"


def test_a_set_of_64_labels_is_read_in_its_order(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    """The highest bit is no sign."""
    labels = ",".join(f"'m{n}'" for n in range(64))
    wanted = [("",), ("m0",), ("m1,m62",), ("m63",), ("m0,m63",)]
    with connect_mysql(mysql_family, fresh_mysql_database(mysql_family)) as connection:
        query(connection, f"CREATE TABLE t (k SET({labels}) PRIMARY KEY)")
        rows = ", ".join(f"('{key}')" for (key,) in wanted)
        query(connection, f"INSERT INTO t VALUES {rows}")
        database = query(connection, "SELECT DATABASE()")[0][0]
        table, low = live_table(connection, database, "t"), current_position(connection)
        reader = make_reader(mysql_family)
        chunks = list(reader.chunks(table, None, low, rows=1, readers=1))
        assert [row for chunk in chunks for row in chunk.rows] == wanted
        assert sorted(reader.rows_of_keys(table, wanted, low, MANY).rows) == sorted(wanted)


def test_rows_of_keys_that_are_too_large_together_are_not_held(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    """GIVEN rows of 4 MB WHEN fewer bytes are allowed THEN the read ends within the first row."""
    with connect_mysql(mysql, database := fresh_mysql_database(mysql)) as connection:
        query(connection, "CREATE TABLE t (k INT PRIMARY KEY, v LONGTEXT)")
        query(connection, "INSERT INTO t SELECT 1, REPEAT('x', 4000000) UNION SELECT 2, 'y'")
        table, low = live_table(connection, database, "t"), current_position(connection)
    reader = make_reader(mysql)
    with pytest.raises(TooLarge):
        reader.rows_of_keys(table, [(1,), (2,)], low, 100_000)
    chunk = reader.rows_of_keys(table, [(2,)], low, 100_000)
    assert (chunk.rows, 0 < chunk.size < 100_000) == ([(2, "y")], True)


def test_keys_that_may_stand_for_bytes_are_not_looked_up(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    """Else a row that the source has would be taken for one that it lacks, and deleted."""
    database = fresh_mysql_database(mysql)
    with connect_mysql(mysql, database) as connection:
        query(connection, "CREATE TABLE t (k VARCHAR(9) CHARACTER SET hebrew PRIMARY KEY)")
        query(connection, "INSERT INTO t VALUES (_hebrew x'D9'), (_hebrew x'E0')")
        table, low = live_table(connection, database, "t"), current_position(connection)
    reader = make_reader(mysql)
    assert reader.rows_of_keys(table, [("\u05d0",), ("none",)], low, MANY).rows == [("\u05d0",)]
    with pytest.raises(SourceError, match="cannot be looked up"):
        reader.rows_of_keys(table, [("\u05d0",), ("\U000f00d9",)], low, MANY)


def test_a_cursor_of_another_key_is_refused(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        table = live_table(connection, database, "t")
        for wrong in ("[1,2]", '["1 OR 1=1"]', "nonsense", "[]"):
            with pytest.raises(ConfigError):
                list(
                    make_reader(mysql).chunks(
                        table, wrong, current_position(connection), rows=1, readers=1
                    )
                )


def test_an_empty_table_gives_one_empty_chunk(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE keyed (id INT PRIMARY KEY)")
        cursor.execute("CREATE TABLE keyless (id INT)")
        low_watermark = current_position(connection)
        for name in ("keyed", "keyless"):
            table = live_table(connection, database, name)
            [chunk] = make_reader(mysql_family).chunks(
                table, None, low_watermark, rows=10, readers=2
            )
            assert (chunk.rows, chunk.cursor) == ([], None)
            assert parse_position(str(chunk.high_watermark)).at_or_after(
                parse_position(low_watermark)
            )


def test_a_zero_keeps_its_sign(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    with connect_mysql(mysql_family, database) as connection:
        query(connection, "CREATE TABLE t (a FLOAT, b DOUBLE, c FLOAT(7,2), d DOUBLE(9,3))")
        query(connection, "INSERT INTO t VALUES (-0e0, -0e0, 0, 0), (0.1, 0.1, 0.1, 0.1)")
        table = live_table(connection, database, "t")
        ((shown,),) = query(connection, "SELECT CONCAT(-0e0)")  # MariaDB 10.11 has no such value
        zero, tenth = rows_of(read_chunks(make_reader(mysql_family), table, connection))
    sign = str(float(shown))
    assert [str(float(str(value))) for value in zero] == [sign, sign, "0.0", "0.0"]
    assert [float(str(value)) for value in tenth[1:]] == [0.1, pytest.approx(0.1), 0.1]


def test_a_table_with_another_shape_is_refused(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT)")
        cursor.execute("CREATE TABLE nk (id INT)")
        table, keyless = (live_table(connection, database, name) for name in ("t", "nk"))
        read_chunks(reader, table, connection)
        for change in ("ADD b INT", "DROP b, MODIFY a BIGINT", "DROP a"):
            cursor.execute(f"ALTER TABLE t {change}")
            with pytest.raises(ShapeChanged):
                read_chunks(reader, table, connection)
        cursor.execute("DROP TABLE t, nk")
        for gone in (table, keyless):
            with pytest.raises(ShapeChanged):
                read_chunks(reader, gone, connection)


def test_another_order_of_the_key_is_another_shape(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (k VARCHAR(9) PRIMARY KEY, v VARCHAR(9)) COLLATE utf8mb4_general_ci"
        )
        table = live_table(connection, database, "t")
        cursor.execute("ALTER TABLE t MODIFY v VARCHAR(9) COLLATE utf8mb4_bin")
        read_chunks(reader, table, connection)
        cursor.execute("ALTER TABLE t MODIFY k VARCHAR(9) COLLATE utf8mb4_bin")
        with pytest.raises(ShapeChanged):
            read_chunks(reader, table, connection)
        key = msgspec.structs.replace(
            table.columns[0], source_type="varchar(9) character set utf8mb4"
        )
        as_before = msgspec.structs.replace(table, columns=(key, table.columns[1]))
        read_chunks(reader, as_before, connection)


def test_a_checked_shape_cannot_change_until_the_read_ends(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    """A SELECT with LIMIT 0 keeps the definition of the table until the transaction ends."""
    database = fresh_mysql_database(mysql_family)
    reading, altering = connect_mysql(mysql_family, database), connect_mysql(mysql_family, database)
    with reading, altering, reading.cursor() as reader, altering.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        cursor.execute("SET lock_wait_timeout = 1")
        reader.execute("START TRANSACTION READ ONLY")
        reader.execute("SELECT 1 FROM t LIMIT 0")
        with pytest.raises(Exception, match="Lock wait timeout"):
            cursor.execute("ALTER TABLE t ADD a INT")


def test_a_chunk_that_grows_too_large_is_cut(
    mysql_family: AnyServer,
    fresh_mysql_database: Fresh,
    make_reader: MakeReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks_module, "_CUT_BYTES", 400_000)
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
        values = [(n, chr(97 + n % 26) * (n % 10) * 20_000) for n in range(100)]
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", values)
        table = live_table(connection, database, "t")
        for readers in (1, 3):
            found = read_chunks(reader, table, connection, rows=60, readers=readers)
            assert rows_of(found) == values
            assert len(found) > 4


def test_a_read_that_goes_on_knows_how_long_rows_are(
    mysql: AnyServer,
    fresh_mysql_database: Fresh,
    make_reader: MakeReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GIVEN statistics that know nothing of a table WHEN its backfill goes on in another slice
    THEN the first chunk has the size of the others."""
    monkeypatch.setattr(chunks_module, "_CHUNK_BYTES", 100_000)
    monkeypatch.setattr(chunks_module, "row_statistics", lambda *_: (10_000, 0))
    database = fresh_mysql_database(mysql)
    connection, reader = connect_mysql(mysql, database), make_reader(mysql)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * 10_000) for n in range(100)])
        table = live_table(connection, database, "t")
        first, second = (
            [len(it.rows) for it in read_chunks(reader, table, connection, rows=50, readers=1)]
            for _ in range(2)
        )
    assert (first[0], set(second[:-1])) == (50, {9})


def test_rows_beyond_sixteen_megabytes(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, v LONGBLOB)")
        # Packets end at 2^24 - 1 bytes: below, at and above it.
        sizes = [10, (1 << 24) - 1 - 6 - 4, (1 << 24) - 6 - 1, 2 * (1 << 24), 5]
        for n, size in enumerate(sizes):
            cursor.execute("INSERT INTO t VALUES (%s, REPEAT('x', %s))", (n, size))
        table = live_table(connection, database, "t")
        found = rows_of(read_chunks(make_reader(mysql), table, connection, rows=10, readers=2))
    assert [(n, len(value)) for n, value in found] == list(enumerate(sizes))


def test_stop_ends_the_read(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, v CHAR(100))")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x") for n in range(3000)])
        table = live_table(connection, database, "t")
        low_watermark = current_position(connection)
        for readers in (1, 3):
            reading = reader.chunks(table, None, low_watermark, rows=10, readers=readers)
            assert next(reading).rows
            reader.stop()
            assert len(list(reading)) <= readers + 1
        # The reader can be used again, also after an iterator was closed early.
        reading = reader.chunks(table, None, low_watermark, rows=10, readers=3)
        assert next(reading).rows[0][0] == 0
        reading.close()  # type: ignore[attr-defined]
        assert (
            len(rows_of(list(reader.chunks(table, None, low_watermark, rows=999, readers=2))))
            == 3000
        )


def test_a_connection_that_stop_has_shut_down_is_not_lent_again(mysql: AnyServer) -> None:
    """GIVEN a read that ends without error although it was stopped WHEN the next read starts
    THEN it gets another connection."""
    sessions = Sessions(lambda: prepare(MySQLSettings(url=mysql.url, timeout_seconds=20)))
    try:
        with sessions.lease():
            sessions.stop()
            sessions.resume()
        with sessions.lease() as lease:
            assert query(lease.connection, "SELECT 1") == [(1,)]
    finally:
        sessions.close()
