"""Chunks: every row once, in key order, whatever the key, and never older than was promised."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from engine.change import Chunk, Row
from engine.databases.mysql.connect import prepare, query
from engine.errors import ConfigError, ShapeChanged, SourceError
from engine.schema import Table
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition, parse_position
from sources.mysql.server_info import log_end, read_server_info
from sources.mysql.settings import MySQLSettings
from sources.mysql.snapshot import chunks as chunks_module
from sources.mysql.snapshot.chunks import ChunkReader
from sources.mysql.snapshot.keyset import Keyset
from sources.mysql.snapshot.sessions import Sessions
from tests.support.mysql_log import live_table, selected_rows
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

Fresh = Callable[[AnyServer], str]
Make = Callable[..., ChunkReader]


@pytest.fixture
def make_reader() -> Iterator[Make]:
    """A function: server → its chunk reader, closed after the test."""
    made: list[ChunkReader] = []

    def make(server: AnyServer, *, gtid: bool = True, url: str | None = None) -> ChunkReader:
        settings = MySQLSettings(url=url or server.url, timeout_seconds=20)
        flavour = "mysql" if server.kind == "mysql" else "mariadb"
        made.append(ChunkReader(lambda: prepare(settings), flavour, gtid=gtid))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


def _now(connection: Any) -> str:
    return str(log_end(connection, read_server_info(connection)))


def _read(
    reader: ChunkReader, table: Table, connection: Any, *, rows: int = 9, readers: int = 1
) -> list[Chunk]:
    """The whole table as it is now."""
    return list(reader.chunks(table, None, _now(connection), rows=rows, readers=readers))


def _rows(chunks: list[Chunk]) -> list[Row]:
    return [row for chunk in chunks for row in chunk.rows]


# Key columns → their definition, and the values of row n.
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
}
ROWS_PER_TABLE = 150


def test_keys_of_every_type(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
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
        low_watermark = _now(connection)
        for number, (kind, (columns, _)) in enumerate(keys.items()):
            table = live_table(connection, database, f"t{number}")
            names = ", ".join(part.split()[0] for part in columns.split(", "))
            expected = selected_rows(mysql_family, table, f"ORDER BY {names}")
            assert len(expected) == ROWS_PER_TABLE
            for readers in (1, 3):
                found = list(reader.chunks(table, None, low_watermark, rows=40, readers=readers))
                assert (kind, _rows(found)) == (kind, expected)
                assert found[-1].cursor is None
            read = 0
            for chunk in found[:-1]:
                read += len(chunk.rows)
                rest = reader.chunks(table, chunk.cursor, low_watermark, rows=1000, readers=1)
                assert (kind, _rows(list(rest))) == (kind, expected[read:])


def test_keys_that_read_the_same_are_refused(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    with connect_mysql(mysql_family, database) as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
        cursor.execute("CREATE TABLE t (k ENUM('a','') PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES ('invalid'), ('a')")
        table, low_watermark = live_table(connection, database, "t"), _now(connection)
    with pytest.raises(SourceError, match="reads like") as stop:
        list(reader.chunks(table, None, low_watermark, rows=1, readers=1))
    assert "`k`+0 = 0" in stop.value.hint


def test_a_copy_that_does_not_move_stops(
    mysql: AnyServer,
    source_database: str,
    make_reader: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with connect_mysql(mysql, source_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (k INT PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (1), (2), (3)")
        table, low_watermark = live_table(connection, source_database, "t"), _now(connection)
    monkeypatch.setattr(Keyset, "between", lambda self, after, last: "")
    for readers in (1, 2):
        with pytest.raises(SourceError, match="does not get beyond"):
            list(make_reader(mysql).chunks(table, None, low_watermark, rows=1, readers=readers))


def test_a_cursor_of_another_key_is_refused(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        table = live_table(connection, database, "t")
        for wrong in ("[1,2]", '["1 OR 1=1"]', "nonsense", "[]"):
            with pytest.raises(ConfigError):
                list(make_reader(mysql).chunks(table, wrong, _now(connection), rows=1, readers=1))


def test_an_empty_table_gives_one_empty_chunk(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE keyed (id INT PRIMARY KEY)")
        cursor.execute("CREATE TABLE keyless (id INT)")
        low_watermark = _now(connection)
        for name in ("keyed", "keyless"):
            table = live_table(connection, database, name)
            [chunk] = make_reader(mysql_family).chunks(
                table, None, low_watermark, rows=10, readers=2
            )
            assert (chunk.rows, chunk.cursor) == ([], None)
            assert parse_position(str(chunk.high_watermark)).at_or_after(
                parse_position(low_watermark)
            )


def _future(connection: Any) -> str:
    """The position after the next transaction of this server."""
    end = log_end(connection, read_server_info(connection))
    if isinstance(end.executed, GtidSet):
        last = end.executed.sources[end.server][-1][1]
        return str(
            MySQLPosition(end.server, "", 0, end.executed.add(end.server, last + 1, last + 1))
        )
    return str(MySQLPosition(end.server, end.file, end.offset + 1, DomainState()))


def test_a_read_waits_until_the_position_is_visible(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        table = live_table(connection, database, "t")
        low_watermark = _future(connection)
        reading = pool.submit(
            lambda: list(reader.chunks(table, None, low_watermark, rows=9, readers=1))
        )

        def asked() -> bool:
            cursor.execute("SHOW FULL PROCESSLIST")
            # MariaDB's reader comes and goes; that it is connected must do.
            wanted = "WAIT_FOR" if mysql_family.kind == "mysql" else ""
            return sum(wanted in str(row[7]) for row in cursor.fetchall()) > (wanted == "")

        wait_until(asked)
        assert not reading.done()
        cursor.execute("INSERT INTO t VALUES (1)")
        [chunk] = reading.result(timeout=20)
    assert chunk.rows == [(1,)]


def test_without_gtids_a_read_waits_for_the_writers_of_the_table(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql)
    reader = make_reader(mysql, gtid=False)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        table = live_table(connection, database, "t")
        end = log_end(connection, read_server_info(connection))
        low_watermark = str(MySQLPosition(end.server, end.file, end.offset))
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (1)")
        reading = pool.submit(
            lambda: list(reader.chunks(table, None, low_watermark, rows=9, readers=1))
        )

        def waiting() -> bool:
            cursor.execute("SHOW FULL PROCESSLIST")
            return any("LOCK TABLES" in str(row[7]) for row in cursor.fetchall())

        wait_until(waiting)
        cursor.execute("COMMIT")
        [chunk] = reading.result(timeout=20)
    assert chunk.rows == [(1,)]


@pytest.mark.parametrize("gtid", [True, False])
def test_a_table_that_goes_while_it_is_asked_for_is_left_out(
    mysql: AnyServer,
    fresh_mysql_database: Fresh,
    make_reader: Make,
    gtid: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = fresh_mysql_database(mysql)
    reader = make_reader(mysql, gtid=gtid)
    connection = connect_mysql(mysql, database)
    begin = reader._watermarks.begin if gtid else reader._watermarks.wait_until_visible

    def late(*arguments: Any) -> None:
        cursor.execute("DROP TABLE b")
        begin(*arguments)

    with connection, connection.cursor() as cursor:
        for name in "ab":
            cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY)")
        a, b = (live_table(connection, database, name) for name in "ab")
        with monkeypatch.context() as patch:
            patch.setattr(reader._watermarks, "begin" if gtid else "wait_until_visible", late)
            assert reader.empty([a, b], _now(connection)) == []
        [chunk] = reader.empty([a], _now(connection))
        assert chunk.table == a
        with pytest.raises(ShapeChanged):
            _read(reader, b, connection)


@pytest.mark.parametrize("engine", ["InnoDB", "MyISAM"])
@pytest.mark.parametrize("gtid", [True, False])
def test_a_table_is_not_called_empty_while_rows_of_the_position_are_on_their_way(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: Make, gtid: bool, engine: str
) -> None:
    database = fresh_mysql_database(mysql)
    reader = make_reader(mysql, gtid=gtid)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        for name in "abc":
            cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY) ENGINE = {engine}")
        tables = [live_table(connection, database, name) for name in "abc"]
        low_watermark = _future(connection) if gtid else _now(connection)
        if not gtid:
            cursor.execute("LOCK TABLES b WRITE" if engine == "MyISAM" else "BEGIN")
            cursor.execute("INSERT INTO b VALUES (1)")
        asking = pool.submit(lambda: reader.empty(tables, low_watermark))

        with connect_mysql(mysql, database) as other, other.cursor() as watching:

            def waiting() -> bool:
                watching.execute("SHOW FULL PROCESSLIST")
                wanted = "WAIT_FOR" if gtid else "LOCK TABLES"
                table = "SELECT EXISTS" if engine == "MyISAM" and not gtid else wanted
                found = [str(row[7]) for row in watching.fetchall()]
                return any(wanted in text or table in text for text in found)

            wait_until(waiting)
        assert not asking.done()
        if gtid:
            cursor.execute("INSERT INTO b VALUES (1)")
        cursor.execute("UNLOCK TABLES" if engine == "MyISAM" else "COMMIT")
        found = asking.result(timeout=20)
    assert [chunk.table.id.name for chunk in found] == ["a", "c"]


def test_the_right_that_a_read_lacks_is_named(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT)")
        cursor.execute(f"CREATE USER '{database}' IDENTIFIED BY 'x'")
        cursor.execute(f"GRANT SELECT ON `{database}`.* TO '{database}'")
        url = f"mysql://{database}:x@{mysql.host}:{mysql.port}/"
        table = live_table(connection, database, "t")
        try:
            with pytest.raises(SourceError, match="may not lock") as caught:
                _read(make_reader(mysql, url=url), table, connection)
        finally:
            cursor.execute(f"DROP USER '{database}'")
    assert "GRANT LOCK TABLES" in caught.value.hint


def test_what_was_seen_is_bounded_and_not_before_what_was_asked_for(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    """Under a writer: every row of a chunk was written at or before ``high_watermark``."""
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        for name, key in (("keyed", " PRIMARY KEY"), ("keyless", "")):
            cursor.execute(f"CREATE TABLE {name} (id INT{key})")
        tables = [live_table(connection, database, name) for name in ("keyed", "keyless")]
        with _Writer(mysql_family, database) as written:
            wait_until(lambda: len(written) > 5)
            for _ in range(10):
                low_watermark = _now(connection)
                count = len(written)
                for table in tables:
                    found = list(reader.chunks(table, None, low_watermark, rows=10_000, readers=1))
                    assert len(_rows(found)) >= count
                    high_watermark = parse_position(str(found[-1].high_watermark))
                    assert high_watermark.at_or_after(parse_position(low_watermark))
                    _wait_for_more(written, _rows(found))
                    _check_seen(high_watermark, written, _rows(found), exact=not table.key)


class _Writer:
    """Writes one row per transaction into both tables; lists each row's transaction number."""

    def __init__(self, server: AnyServer, database: str, *, transactions: bool = True) -> None:
        self._transactions = transactions
        self._connection = connect_mysql(server, database)
        self._mariadb = server.kind == "mariadb"
        self._written: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with self._connection.cursor() as cursor:
            while not self._stop.is_set():
                number = len(self._written)
                if self._transactions:
                    cursor.execute("BEGIN")
                cursor.execute("INSERT INTO keyed VALUES (%s)", (number,))
                cursor.execute("INSERT INTO keyless VALUES (%s)", (number,))
                if self._transactions:
                    cursor.execute("COMMIT")
                self._written.append(self._transaction(cursor))

    def _transaction(self, cursor: Any) -> int:
        if self._mariadb:
            cursor.execute("SELECT @@last_gtid")
            return int(cursor.fetchone()[0].split("-")[2])
        cursor.execute("SELECT @@GLOBAL.gtid_executed, @@server_uuid")
        executed, uuid = cursor.fetchone()
        return GtidSet.parse(executed).sources[uuid][-1][1]

    def __enter__(self) -> list[int]:
        self._thread.start()
        return self._written

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self._connection.close()


def _wait_for_more(written: list[int], rows: list[Row]) -> None:
    wait_until(lambda: len(written) > len(rows))


def _check_seen(
    high_watermark: MySQLPosition, written: list[int], rows: list[Row], *, exact: bool
) -> None:
    if isinstance(high_watermark.executed, GtidSet):
        last = high_watermark.executed.sources[high_watermark.server][-1][1]
    else:
        assert isinstance(high_watermark.executed, DomainState)
        last = max(int(part.split("-")[2]) for part in str(high_watermark.executed).split(","))
    inside = sum(number <= last for number in list(written)[: len(rows) + 1])
    if exact:
        assert inside == len(rows)
    else:
        assert inside >= len(rows)


def test_another_shape_is_noticed(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT)")
        cursor.execute("CREATE TABLE nk (id INT)")
        table, keyless = (live_table(connection, database, name) for name in ("t", "nk"))
        _read(reader, table, connection)
        for change in ("ADD b INT", "DROP b, MODIFY a BIGINT", "DROP a"):
            cursor.execute(f"ALTER TABLE t {change}")
            with pytest.raises(ShapeChanged):
                _read(reader, table, connection)
        cursor.execute("DROP TABLE t, nk")
        for gone in (table, keyless):
            with pytest.raises(ShapeChanged):
                _read(reader, gone, connection)


def test_another_order_of_the_key_is_another_shape(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
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
        _read(reader, table, connection)
        cursor.execute("ALTER TABLE t MODIFY k VARCHAR(9) COLLATE utf8mb4_bin")
        with pytest.raises(ShapeChanged):
            _read(reader, table, connection)
        key = msgspec.structs.replace(
            table.columns[0], source_type="varchar(9) character set utf8mb4"
        )
        as_before = msgspec.structs.replace(table, columns=(key, table.columns[1]))
        _read(reader, as_before, connection)


@pytest.mark.parametrize("engine", ["MyISAM", "MEMORY", "Aria"])
def test_a_keyless_table_without_transactions_is_read_under_a_lock(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make, engine: str
) -> None:
    """What is written while it is read is neither in its rows nor before their place."""
    if engine == "Aria" and mysql_family.kind == "mysql":
        pytest.skip("MariaDB has it")
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    writer = connect_mysql(mysql_family, database)
    with connection, writer, connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute(f"CREATE TABLE t (n INT, v CHAR(200)) ENGINE={engine}")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * 200) for n in range(9000)])
        table = live_table(connection, database, "t")
        low_watermark = _now(connection)
        reading = make_reader(mysql_family).chunks(table, None, low_watermark, rows=1000, readers=2)
        found = [next(reading)]
        insert = pool.submit(writer.cursor().execute, "INSERT INTO t VALUES (9000, 'late')")

        def waiting() -> bool:
            cursor.execute("SHOW FULL PROCESSLIST")
            states = [str(row[6]).lower() for row in cursor.fetchall() if "'late'" in str(row[7])]
            return any("lock" in state for state in states)

        wait_until(waiting)
        before = _now(connection)
        found += reading
        insert.result(timeout=20)
        after = _now(connection)
    high_watermark = parse_position(str(found[0].high_watermark))
    assert sorted(row[0] for row in _rows(found)) == list(range(9000))
    assert parse_position(before).at_or_after(high_watermark)
    assert not high_watermark.at_or_after(parse_position(after))


@pytest.mark.parametrize("engine", ["MyISAM", "Aria"])
def test_a_keyed_table_without_transactions_under_a_writer(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make, engine: str
) -> None:
    """A chunk shows all that was logged before, and nothing after ``high_watermark``."""
    if engine == "Aria" and mysql_family.kind == "mysql":
        pytest.skip("MariaDB has it")
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE keyed (id INT PRIMARY KEY) ENGINE={engine}")
        cursor.execute(f"CREATE TABLE keyless (id INT) ENGINE={engine}")
        tables = [live_table(connection, database, name) for name in ("keyed", "keyless")]
        with _Writer(mysql_family, database, transactions=False) as written:
            wait_until(lambda: len(written) > 5)
            for _ in range(20):
                low_watermark = _now(connection)
                count = len(written)
                for table in tables:
                    found = list(reader.chunks(table, None, low_watermark, rows=10_000, readers=1))
                    assert len(_rows(found)) >= count
                    high_watermark = parse_position(str(found[-1].high_watermark))
                    # The table with a key is written one transaction earlier.
                    _wait_for_more(written, _rows(found))
                    numbers = [number - bool(table.key) for number in list(written)]
                    _check_seen(high_watermark, numbers, _rows(found), exact=not table.key)


def test_a_shape_that_was_checked_stays_until_the_read_is_done(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    """What the reads rely on: a look at no row keeps the definition for the transaction."""
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
    make_reader: Make,
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
            found = _read(reader, table, connection, rows=60, readers=readers)
            assert _rows(found) == values
            assert len(found) > 4


def test_rows_beyond_sixteen_megabytes(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
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
        found = _rows(_read(make_reader(mysql), table, connection, rows=10, readers=2))
    assert [(n, len(value)) for n, value in found] == list(enumerate(sizes))


def test_a_keyless_table_comes_in_pieces_of_one_moment(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n INT, v CHAR(200))")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * 200) for n in range(9000)])
        table = live_table(connection, database, "t")
        reading = make_reader(mysql_family).chunks(
            table, None, _now(connection), rows=1000, readers=2
        )
        first = next(reading)
        cursor.execute("DELETE FROM t")
        found = [first, *reading]
    assert len(found) > 2
    assert sorted(row[0] for row in _rows(found)) == list(range(9000))
    assert {str(chunk.high_watermark) for chunk in found} == {str(first.high_watermark)}
    assert [chunk.cursor is None for chunk in found] == [False] * (len(found) - 1) + [True]


def test_stop_ends_the_reading(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: Make
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, v CHAR(100))")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x") for n in range(3000)])
        table = live_table(connection, database, "t")
        low_watermark = _now(connection)
        for readers in (1, 3):
            reading = reader.chunks(table, None, low_watermark, rows=10, readers=readers)
            assert next(reading).rows
            reader.stop()
            assert len(list(reading)) <= readers + 1
        # It can be used again, and an iterator that is closed leaves nothing behind.
        reading = reader.chunks(table, None, low_watermark, rows=10, readers=3)
        assert next(reading).rows[0][0] == 0
        reading.close()  # type: ignore[attr-defined]
        assert (
            len(_rows(list(reader.chunks(table, None, low_watermark, rows=999, readers=2)))) == 3000
        )


def test_a_connection_that_stop_has_broken_is_not_lent_again(mysql: AnyServer) -> None:
    """GIVEN a read that ends well although it was stopped WHEN others go on THEN with another."""
    sessions = Sessions(lambda: prepare(MySQLSettings(url=mysql.url, timeout_seconds=20)))
    try:
        with sessions.lease():
            sessions.stop()
            sessions.resume()
        with sessions.lease() as lease:
            assert query(lease.connection, "SELECT 1") == [(1,)]
    finally:
        sessions.close()
