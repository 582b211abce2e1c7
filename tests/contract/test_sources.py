"""
The contract of a source (``engine.contract.Source``), run against every registered one.

The idea: each test knows only the protocol, and ``Origin`` to write transactions at the source. A
new source gets an adapter here and has to pass everything.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec
import pytest

from engine.change import Begin, Change, Chunk, Commit, Heartbeat, Row, Rows, SchemaChange
from engine.contract import Source
from engine.errors import ShapeChanged
from engine.schema import Column, Table, TableId, Type
from engine.settings import registry
from sources import SOURCES
from tests.support.servers import AnyServer, ExternalServer, connect_mysql
from tests.support.waiting import wait_until

DEADLINE_SECONDS = 20.0
HEARTBEAT_SECONDS = 0.5
#: How soon ``stop`` has to work.
PROMPT_SECONDS = 3.0

Name = Literal["item", "bag"]


class Step(NamedTuple):
    """One change to one row of a table; ``old`` or ``new`` is None for an insert or a delete."""

    table: Name
    old: Row | None
    new: Row | None


def insert(table: Name, *rows: Row) -> list[Step]:
    return [Step(table, None, row) for row in rows]


def update(table: Name, old: Row, new: Row) -> list[Step]:
    return [Step(table, old, new)]


def delete(table: Name, *rows: Row) -> list[Step]:
    return [Step(table, row, None) for row in rows]


class Origin(Protocol):
    """A place with the tables ``item`` (id, code, note; key id) and ``bag`` (code, note; no key),
    both empty.
    """

    def execute(self, *transactions: Sequence[Step]) -> None:
        """Commit these transactions, one after the other."""
        ...

    def source(self) -> Source:
        """A new source that follows the two tables."""
        ...

    def start(self) -> str | None:
        """Where a stream begins that shows all transactions of ``execute``."""
        ...


class MemoryOrigin:
    def __init__(self) -> None:
        from sources.memory import MemoryDatabase

        key = Column("id", Type("int32"), "int", nullable=False)
        code, note = (Column(name, Type("text"), "text") for name in ("code", "note"))
        item = Table(TableId("shop", "item"), (key, code, note), key=(0,))
        self.tables = {"item": item, "bag": Table(TableId("shop", "bag"), (code, note))}
        self.database = MemoryDatabase()
        for table in self.tables.values():
            self.database.load(table, [])

    def execute(self, *transactions: Sequence[Step]) -> None:
        for steps in transactions:
            self.database.commit(*map(self._rows, steps))

    def _rows(self, step: Step) -> Rows:
        op: Literal["insert", "update", "delete"] = "update"
        if step.old is None or step.new is None:
            op = "insert" if step.old is None else "delete"
        before, after = (None if row is None else [row] for row in (step.old, step.new))
        return Rows(self.tables[step.table], op, before, after, size=20)

    def source(self) -> Source:
        from sources.memory import MemorySettings, MemorySource

        settings = MemorySettings("memory:contract", HEARTBEAT_SECONDS, changes_per_read=3)
        return MemorySource(settings, self.database)

    def start(self) -> str | None:
        return None


class Database:
    """The two tables in a database on a MySQL or MariaDB server."""

    COLUMNS: Mapping[Name, Sequence[str]] = {
        "item": ("id", "code", "note"),
        "bag": ("code", "note"),
    }

    def __init__(self, server: AnyServer, name: str) -> None:
        self.server = server
        self.name = name
        with connect_mysql(server, name) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE item (id int PRIMARY KEY, code varchar(20), note text)")
            cursor.execute("CREATE TABLE bag (code varchar(20), note text)")

    def execute(self, *transactions: Sequence[Step]) -> None:
        with connect_mysql(self.server, self.name) as connection:
            connection.autocommit(False)
            with connection.cursor() as cursor:
                for steps in transactions:
                    for step in steps:
                        cursor.execute(*self._statement(step))
                    connection.commit()

    def _statement(self, step: Step) -> tuple[str, Row]:
        names = self.COLUMNS[step.table]
        put = ", ".join(f"{name} = %s" for name in names)
        match = " AND ".join(f"{name} <=> %s" for name in names)
        if step.old is None:
            return f"INSERT INTO {step.table} SET {put}", step.new or ()
        if step.new is None:
            return f"DELETE FROM {step.table} WHERE {match} LIMIT 1", step.old
        return f"UPDATE {step.table} SET {put} WHERE {match} LIMIT 1", (*step.new, *step.old)


class ServerOrigin:
    """Follows the server itself."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.execute = database.execute
        with closing(self.source()) as source:
            self._start = source.position()

    def source(self) -> Source:
        from sources.mysql.settings import MySQLSettings
        from sources.mysql.source import MySQLSource

        return MySQLSource(
            MySQLSettings(
                url=self.database.server.url,
                tables=(f"{self.database.name}.*",),
                heartbeat_seconds=HEARTBEAT_SECONDS,
                timeout_seconds=10.0,
            )
        )

    def start(self) -> str | None:
        return self._start


class FileOrigin:
    """Follows copies of the server's log files, each made when it is complete."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self._first = self._rotate()

    def execute(self, *transactions: Sequence[Step]) -> None:
        self.database.execute(*transactions)
        current = self._rotate()
        for path in sorted(current.parent.glob(f"{current.stem}.[0-9]*")):
            if self._first.name <= path.name < current.name:
                shutil.copy(path, self.folder)

    def _rotate(self) -> Path:
        """End the current log file; the path of the new one."""
        with connect_mysql(self.database.server) as connection, connection.cursor() as cursor:
            cursor.execute("FLUSH BINARY LOGS")
            cursor.execute("SHOW BINARY LOGS")
            name = cursor.fetchall()[-1][0]
            cursor.execute("SELECT @@log_bin_basename")
            return Path(cursor.fetchall()[0][0]).parent / name

    def source(self) -> Source:
        from sources.mysql.file_source import BinlogFileSource
        from sources.mysql.settings import BinlogFileSettings

        return BinlogFileSource(
            BinlogFileSettings(
                url=f"mysql-binlog:{self.folder}", tables=(f"{self.database.name}.*",)
            )
        )

    def start(self) -> str | None:
        return None


MYSQL = "sources.mysql.source:MySQLSource"
FILES = "sources.mysql.file_source:BinlogFileSource"

#: The registered class, and the fixture of the server that it is run on.
ADAPTERS = {
    "memory": ("sources.memory:MemorySource", ""),
    "mysql": (MYSQL, "mysql"),
    "mariadb-10": (MYSQL, "mariadb_10"),
    "mariadb-11": (MYSQL, "mariadb_11"),
    "mysql-files": (FILES, "mysql"),
    "mariadb-files": (FILES, "mariadb_11"),
}


Make = Callable[[str], Origin]


@pytest.fixture
def make_origin(
    request: pytest.FixtureRequest,
    fresh_mysql_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> Make:
    def make(adapter: str) -> Origin:
        name, fixture = ADAPTERS[adapter]
        if not fixture:
            return MemoryOrigin()
        server: AnyServer = request.getfixturevalue(fixture)
        if name == FILES and isinstance(server, ExternalServer):
            pytest.skip("the log files of the person's own server cannot be reached")
        database = Database(server, fresh_mysql_database(server))
        return FileOrigin(database, tmp_path) if name == FILES else ServerOrigin(database)

    return make


@pytest.fixture(params=ADAPTERS)
def origin(request: pytest.FixtureRequest, make_origin: Make) -> Origin:
    """Each origin in turn."""
    return make_origin(request.param)


@pytest.fixture(params=[key for key, (name, _) in ADAPTERS.items() if name != FILES])
def live(request: pytest.FixtureRequest, make_origin: Make) -> Origin:
    """Each origin that grows and has tables to be read."""
    return make_origin(request.param)


@pytest.fixture(params=[key for key, (name, _) in ADAPTERS.items() if name == FILES])
def finished(request: pytest.FixtureRequest, make_origin: Make) -> Origin:
    """Each origin whose log ends."""
    return make_origin(request.param)


class Transaction(NamedTuple):
    """One transaction as it was streamed: its frame, and each row change in order."""

    begin: Begin
    steps: list[tuple[str, Row | None, Row | None]]
    commit: Commit

    @property
    def end(self) -> str:
        return str(self.commit.position)


def expected(*transactions: Sequence[Step]) -> list[list[tuple[str, Row | None, Row | None]]]:
    return [list(steps) for steps in transactions]


def steps(transactions: Sequence[Transaction]) -> list[list[tuple[str, Row | None, Row | None]]]:
    return [transaction.steps for transaction in transactions]


@contextmanager
def watched(source: Source) -> Iterator[Source]:
    """Close the source at the end, and stop it at the deadline, so that no test hangs."""
    timer = threading.Timer(DEADLINE_SECONDS, source.stop)
    timer.start()
    try:
        yield source
    finally:
        timer.cancel()
        source.stop()
        source.close()


def tables_of(source: Source) -> Mapping[str, Table]:
    return {table.id.name: table for table in source.catalog()}


def follow(
    origin: Origin, position: str | None, count: int
) -> tuple[list[Transaction], list[Change]]:
    """The first ``count`` transactions after ``position``, and all that came until then."""
    changes: list[Change] = []
    with watched(origin.source()) as source:
        stream = source.stream(position, source.catalog())
        while sum(isinstance(change, Commit) for change in changes) < count:
            piece = next(stream, None)
            assert piece is not None, f"the stream ended after {len(changes)} changes"
            assert piece, "a list is never empty"
            changes += piece
    return framed(changes)[:count], changes


def framed(changes: Sequence[Change]) -> list[Transaction]:
    """The transactions in ``changes``; fails if the frame is broken."""
    found: list[Transaction] = []
    begin: Begin | None = None
    steps: list[tuple[str, Row | None, Row | None]] = []
    for change in changes:
        if isinstance(change, Begin):
            assert begin is None, "a transaction begins in another"
            begin, steps = change, []
        elif isinstance(change, Commit):
            assert begin is not None, "a commit without a begin"
            found.append(Transaction(begin, steps, change))
            begin = None
        elif isinstance(change, Heartbeat):
            assert begin is None, "a heartbeat inside a transaction"
        elif isinstance(change, Rows):
            assert begin is not None, "rows outside a transaction"
            steps += each_row(change)
    return found


def each_row(change: Rows) -> list[tuple[str, Row | None, Row | None]]:
    befores = change.before if change.before is not None else [None] * len(change)
    afters = change.after if change.after is not None else [None] * len(change)
    assert (change.before is None) == (change.op in ("insert", "read"))
    assert (change.after is None) == (change.op == "delete")
    name = change.table.id.name
    return [(name, old, new) for old, new in zip(befores, afters, strict=True)]


def read_all(chunks: Iterator[Chunk]) -> list[Chunk]:
    found = list(chunks)
    assert [chunk.cursor is None for chunk in found] == [False] * (len(found) - 1) + [True]
    return found


HISTORY = (
    insert("item", (1, "a", "first"), (2, "b", None)),
    [*insert("bag", ("x", None), ("x", None)), *update("item", (1, "a", "first"), (1, "a", "2nd"))],
    update("item", (2, "b", None), (20, "b", None)),
    [*delete("item", (20, "b", None)), *insert("item", (20, "c", "häß ☃"))],
    delete("bag", ("x", None)),
)


def test_every_registered_source_is_here() -> None:
    assert set(SOURCES.values()) == {name for name, _ in ADAPTERS.values()}
    for scheme in SOURCES:
        source = registry.load(scheme, SOURCES, "tailrace.sources")
        assert issubclass(source.Settings, msgspec.Struct)


# -- the stream ------------------------------------------------------------------------------------


def test_transactions_come_whole_framed_and_in_order(origin: Origin) -> None:
    origin.execute(*HISTORY)
    transactions, changes = follow(origin, origin.start(), len(HISTORY))
    assert steps(transactions) == expected(*HISTORY)
    # A source without a catalog makes its tables known when they appear, and only then.
    for change in changes:
        if isinstance(change, SchemaChange):
            assert change.before is None
            assert change.after not in origin.source().catalog()
    ids = [transaction.begin.transaction for transaction in transactions]
    assert len(set(ids)) == len(ids)
    now = time.time()
    for transaction in transactions:
        assert now - 600 < transaction.commit.committed_at <= now + 5


def test_a_stream_goes_on_exactly_after_each_commit(origin: Origin) -> None:
    origin.execute(*HISTORY)
    transactions, _ = follow(origin, origin.start(), len(HISTORY))
    for number, transaction in enumerate(transactions[:-1], 1):
        rest, _ = follow(origin, transaction.end, len(HISTORY) - number)
        assert steps(rest) == expected(*HISTORY[number:])
        assert [one.end for one in rest] == [one.end for one in transactions[number:]]


def test_a_stream_from_where_a_transaction_starts_shows_it_whole(origin: Origin) -> None:
    origin.execute(*HISTORY)
    transactions, _ = follow(origin, origin.start(), len(HISTORY))
    start = str(transactions[2].begin.position)
    rest, _ = follow(origin, start, len(HISTORY) - 2)
    assert steps(rest) == expected(*HISTORY[2:])


def test_a_large_transaction_is_one_transaction(origin: Origin) -> None:
    rows = [(number, f"c{number}", "n" * 50) for number in range(2000)]
    origin.execute(insert("item", *rows), delete("item", *rows[:1]))
    (large, small), _ = follow(origin, origin.start(), 2)
    assert [new for _, _, new in large.steps] == rows
    assert small.steps == [("item", rows[0], None)]


def test_positions_are_ordered_as_their_transactions_are(origin: Origin) -> None:
    origin.execute(*HISTORY)
    transactions, _ = follow(origin, origin.start(), len(HISTORY))
    ends = [transaction.end for transaction in transactions]
    with watched(origin.source()) as source:
        for early, position in enumerate(ends):
            for late, target in enumerate(ends):
                assert source.reached(position, target) == (early >= late)


def test_a_position_includes_the_transactions_up_to_it(origin: Origin) -> None:
    origin.execute(*HISTORY)
    transactions, _ = follow(origin, origin.start(), len(HISTORY))
    with watched(origin.source()) as source:
        for early, one in enumerate(transactions):
            for late, other in enumerate(transactions):
                assert source.includes(one.end, other.begin) == (late <= early)


def test_the_end_of_the_log_is_after_every_commit(origin: Origin) -> None:
    origin.execute(*HISTORY)
    transactions, _ = follow(origin, origin.start(), len(HISTORY))
    with watched(origin.source()) as source:
        goal = source.position()
        assert source.reached(goal, transactions[-1].end)
        assert all(source.includes(goal, transaction.begin) for transaction in transactions)


def test_the_end_of_the_log_is_reached(live: Origin) -> None:
    live.execute(*HISTORY)
    with watched(live.source()) as source:
        goal = source.position()
        here = ""
        for changes in source.stream(live.start(), source.catalog()):
            for change in changes:
                if isinstance(change, Commit | Heartbeat):
                    here = str(change.position)
            if here and source.reached(here, goal):
                break
        assert source.reached(here, goal)


def test_the_backlog_shrinks(origin: Origin) -> None:
    origin.execute(*HISTORY)
    transactions, _ = follow(origin, origin.start(), len(HISTORY))
    with watched(origin.source()) as source:
        first, last = (source.backlog(transactions[n].end) for n in (0, -1))
        if first is not None and last is not None:
            assert first > last >= 0


def test_a_finished_log_ends(finished: Origin) -> None:
    finished.execute(*HISTORY)
    with watched(finished.source()) as source:
        changes = [change for piece in source.stream(None, ()) for change in piece]
    assert steps(framed(changes)) == expected(*HISTORY)


def test_a_finished_log_is_read_to_its_position(finished: Origin) -> None:
    finished.execute(*HISTORY)
    with watched(finished.source()) as source:
        ends = [
            change.position
            for piece in source.stream(None, ())
            for change in piece
            if isinstance(change, Commit | Heartbeat)
        ]
        assert source.reached(str(ends[-1]), source.position())
        rest = [change for piece in source.stream(str(ends[-1]), ()) for change in piece]
    assert framed([change for change in rest if not isinstance(change, Heartbeat)]) == []


def test_an_idle_source_shows_that_it_lives(live: Origin) -> None:
    live.execute(*HISTORY[:1])
    with watched(live.source()) as source:
        goal = source.position()
        beats: list[Heartbeat] = []
        for changes in source.stream(live.start(), source.catalog()):
            beats += [change for change in changes if isinstance(change, Heartbeat)]
            if len(beats) >= 2:
                break
        assert source.reached(str(beats[-1].position), goal)
        assert abs(beats[-1].at - time.time()) < 60
    live.execute(*HISTORY[1:])
    rest, _ = follow(live, str(beats[-1].position), len(HISTORY) - 1)
    assert steps(rest) == expected(*HISTORY[1:])


def test_what_is_committed_meanwhile_arrives(live: Origin) -> None:
    with watched(live.source()) as source:
        stream = source.stream(live.start(), source.catalog())
        assert next(stream)
        live.execute(*HISTORY)
        changes: list[Change] = []
        while sum(isinstance(change, Commit) for change in changes) < len(HISTORY):
            changes += next(stream)
    assert steps(framed(changes)) == expected(*HISTORY)


def test_stop_ends_a_waiting_stream_soon_and_close_allows_another(live: Origin) -> None:
    with watched(live.source()) as source:
        catalog = source.catalog()
        idle = threading.Event()

        def read() -> None:
            for _ in source.stream(live.start(), catalog):
                idle.set()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        assert idle.wait(DEADLINE_SECONDS)
        source.stop()
        source.stop()
        wait_until(lambda: not thread.is_alive(), PROMPT_SECONDS, "the stream's end")
        source.close()
        source.close()
        live.execute(*HISTORY[:1])
        assert next(iter(source.stream(live.start(), catalog)))


# -- the tables ------------------------------------------------------------------------------------


def test_a_constructor_does_nothing_and_close_is_harmless(origin: Origin) -> None:
    source = origin.source()
    source.stop()
    source.close()
    source.close()


def test_the_catalog_lists_the_tables_in_order(live: Origin) -> None:
    with watched(live.source()) as source:
        bag, item = source.catalog()
        assert (bag.id.name, bag.key, bag.names) == ("bag", (), ("code", "note"))
        assert (item.id.name, item.key, item.names) == ("item", (0,), ("id", "code", "note"))
        assert bag.id < item.id
        assert source.catalog({bag.id}) == [item]
        assert source.catalog({bag.id, item.id}) == []
        assert all(rows >= 0 for rows in source.estimates([bag, item]).values())


def test_a_preflight_finds_no_fault(origin: Origin) -> None:
    origin.execute(*HISTORY)
    with watched(origin.source()) as source:
        findings = source.check()
    assert findings
    assert [finding for finding in findings if finding.level == "error"] == []


@pytest.mark.parametrize("readers", [1, 3])
def test_chunks_show_each_row_once_in_key_order(live: Origin, readers: int) -> None:
    rows = [(number * 3, f"c{number}", None) for number in range(50)]
    live.execute(insert("item", *reversed(rows)))
    with watched(live.source()) as source:
        item, low_watermark = tables_of(source)["item"], source.position()
        chunks = read_all(source.chunks(item, None, low_watermark, rows=7, readers=readers))
        assert [row for chunk in chunks for row in chunk.rows] == rows
        assert len(chunks) > 3
        assert all(source.reached(str(chunk.high_watermark), low_watermark) for chunk in chunks)
        assert all(chunk.table == item for chunk in chunks)


def test_chunks_go_on_after_each_cursor(live: Origin) -> None:
    rows = [(number, None, None) for number in range(-10, 10)]
    live.execute(insert("item", *rows))
    with watched(live.source()) as source:
        item, low_watermark = tables_of(source)["item"], source.position()
        first = read_all(source.chunks(item, None, low_watermark, rows=6, readers=1))
        done = 0
        for chunk in first[:-1]:
            done += len(chunk.rows)
            rest = read_all(source.chunks(item, chunk.cursor, low_watermark, rows=6, readers=2))
            assert [row for chunk in rest for row in chunk.rows] == rows[done:]


def test_an_empty_table_gives_one_empty_chunk(live: Origin) -> None:
    with watched(live.source()) as source:
        for table in source.catalog():
            (chunk,) = source.chunks(table, None, source.position(), rows=10, readers=2)
            assert (chunk.rows, chunk.cursor) == ([], None)


def test_empty_tables_are_told_from_others(live: Origin) -> None:
    with watched(live.source()) as source:
        item, low_watermark = tables_of(source)["item"], source.position()
        gone = msgspec.structs.replace(item, id=TableId(item.id.schema, "gone"))
        assert source.empty([gone], low_watermark) == []
        (chunk,) = source.empty([item], low_watermark)
        assert (chunk.table, chunk.rows, chunk.cursor) == (item, [], None)
        assert source.reached(str(chunk.high_watermark), low_watermark)
        live.execute(insert("item", (1, "a", None)))
        assert source.empty([item], source.position()) == []
    late, _ = follow(live, str(chunk.high_watermark), 1)
    assert steps(late) == expected(insert("item", (1, "a", None)))


def test_a_table_without_a_key_is_read_at_one_position(live: Origin) -> None:
    rows: list[Row] = [("x", str(number % 5)) for number in range(40)]
    live.execute(insert("bag", *rows))
    with watched(live.source()) as source:
        bag, low_watermark = tables_of(source)["bag"], source.position()
        seen: list[str] = []
        found: list[Row] = []
        for chunk in source.chunks(bag, None, low_watermark, rows=15, readers=2):
            seen.append(str(chunk.high_watermark))
            found += chunk.rows
            live.execute(insert("bag", ("late", None)))
        assert sorted(found) == sorted(rows)
        assert len(set(seen)) == 1
    late, _ = follow(live, seen[0], len(seen))
    assert steps(late) == expected(*[insert("bag", ("late", None))] * len(seen))


def test_a_chunk_shows_what_was_committed_before_it_was_asked_for(live: Origin) -> None:
    with watched(live.source()) as source:
        item = tables_of(source)["item"]
        for number in range(10):
            live.execute(insert("item", (number, None, None)))
            low_watermark = source.position()
            (chunk,) = source.chunks(item, None, low_watermark, rows=100, readers=1)
            assert len(chunk.rows) == number + 1
            assert source.reached(str(chunk.high_watermark), low_watermark)


def test_another_shape_is_refused(live: Origin) -> None:
    live.execute(insert("item", (1, None, None)))
    with watched(live.source()) as source:
        item = tables_of(source)["item"]
        other = msgspec.structs.replace(item, columns=(*item.columns[:2], item.columns[1]))
        with pytest.raises(ShapeChanged):
            list(source.chunks(other, None, source.position(), rows=10, readers=1))


def test_chunks_may_be_left_and_stopped(live: Origin) -> None:
    live.execute(insert("item", *[(number, None, None) for number in range(30)]))
    with watched(live.source()) as source:
        item, low_watermark = tables_of(source)["item"], source.position()
        left = source.chunks(item, None, low_watermark, rows=5, readers=2)
        next(left)
        left.close()
        stopped = source.chunks(item, None, low_watermark, rows=5, readers=2)
        next(stopped)
        source.stop()
        started = time.monotonic()
        assert len(list(stopped)) < 6
        assert time.monotonic() - started < PROMPT_SECONDS
        source.close()
        assert len(read_all(source.chunks(item, None, low_watermark, rows=5, readers=2))) >= 6
