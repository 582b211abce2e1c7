"""
The fixtures that all tests share: database servers, and new databases on them.

Each server starts once, when the first test asks for it. By default the servers are private
(`engine.sandbox`). These variables name your own servers, which are used instead:

    TAILRACE_TEST_MYSQL     mysql://user:password@host:port/       in place of `mysql`
    TAILRACE_TEST_MARIADB   mysql://user:password@host:port/       in place of `mariadb_10`
    TAILRACE_TEST_POSTGRES  postgresql://user:password@host:port/postgres  in place of `postgres_15`

Then the tests with the other release of that kind are skipped, and so are tests that stop and start
a server. Your servers need the settings that `tailrace check` asks for, and a user with all
privileges. Tests create their own databases there and drop them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest

from engine.ops.log import StandardError
from engine.sandbox import Server, start_mariadb, start_mysql, start_postgres
from engine.toolkit.accelerator import python_only
from engine.toolkit.policies import ReadPolicies, StoragePolicies
from sinks.postgres import accelerator as encoder
from sources.mysql.codec import accelerator as decoder
from tests.support.old_servers import OLD_SERVERS
from tests.support.postgres_databases import PostgresDatabases, url_of
from tests.support.servers import (
    AnyServer,
    ExternalServer,
    connect_mysql,
    drop_mysql_database,
    obtain,
    obtain_old,
)
from tests.support.shops import Shop, load_new_shop
from tests.support.sides import Sides

#: The data survive a killed server, and need not survive a power failure.
FAST_POSTGRES = ("fsync=off",)

#: Modules whose tests take long, and whose tests on MariaDB are left to `make slow`.
LONG = (
    *("test_alters_in_two_parts", "test_cascade_histories", "test_changed_values", "test_crash"),
    *("test_dead_letters", "test_grants", "test_in_place", "test_lost_changes", "test_lost_log"),
    *("test_mapped_kills", "test_mapping", "test_merged_tables", "test_passing"),
    *("test_planted_faults", "test_policies", "test_prepared_transactions", "test_pushdown"),
    *("test_quarantine", "test_random_histories", "test_sampling", "test_sandbox"),
    *("test_schema_command", "test_statement_format", "test_unknown_foreign_keys"),
    *("test_unlogged_changes", "test_unlogged_kills", "test_vectors"),
)

_used: list[AnyServer] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them before tests are deselected by their marks."""
    for item in items:
        if item.path.stem in LONG and "mariadb" in item.name:
            item.add_marker(pytest.mark.slow)


def pytest_configure() -> None:
    """Have Ctrl-C end the processes that tests start. A shell that runs the tests in the background
    has them ignore it, and what ignores a signal passes that on.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _used:
        names = ", ".join(f"{server.kind} {server.version}" for server in _used)
        terminalreporter.write_line(f"database servers: {names}")


@pytest.fixture(autouse=True)
def log_unconfigured() -> Iterator[None]:
    """Start each test with the loggers of a new process: a command that runs in this process, in a
    test or in a fixture, configures them.
    """
    own, others = logging.getLogger("tailrace"), logging.getLogger()
    own.handlers.clear()
    own.setLevel(logging.NOTSET)
    own.propagate = True
    others.handlers[:] = [it for it in others.handlers if not isinstance(it, StandardError)]
    hook = threading.excepthook
    yield
    threading.excepthook = hook


@pytest.fixture(params=["accelerator", "python"])
def by_each_codec(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test with the accelerators, and again with the generated Python alone."""
    if request.param == "python":
        with python_only():
            yield
    elif decoder.AVAILABLE and encoder.AVAILABLE:
        yield
    else:
        pytest.skip("the accelerators are not built, or TAILRACE_ACCELERATOR=off")


def _provide(kind: str, start: Callable[[], Server], *, first: bool = True) -> Iterator[AnyServer]:
    """Yield your own server of that kind, or a private one that stops at the end."""
    variable = f"TAILRACE_TEST_{kind.upper()}"
    url = os.environ.get(variable)
    if url and not first:
        pytest.skip(f"{variable} names the only {kind} server to test with")
    if url:
        external = ExternalServer(kind, url)
        _used.append(external)
        yield external
        return
    with obtain(start) as server:
        _used.append(server)
        yield server


@pytest.fixture(scope="session")
def mysql() -> Iterator[AnyServer]:
    """MySQL 9.7, with GTIDs and full row metadata."""
    yield from _provide("mysql", start_mysql)


@pytest.fixture(scope="session")
def mariadb_10() -> Iterator[AnyServer]:
    """MariaDB 10.11."""
    yield from _provide("mariadb", lambda: start_mariadb("10.11"))


@pytest.fixture(scope="session")
def mariadb_11() -> Iterator[AnyServer]:
    """MariaDB 11.8."""
    yield from _provide("mariadb", lambda: start_mariadb("11.8"), first=False)


@pytest.fixture(scope="session")
def postgres_15() -> Iterator[AnyServer]:
    """PostgreSQL 15."""
    yield from _provide("postgres", lambda: start_postgres("15", options=FAST_POSTGRES))


@pytest.fixture(scope="session")
def postgres_18() -> Iterator[AnyServer]:
    """PostgreSQL 18."""
    yield from _provide(
        "postgres", lambda: start_postgres("18", options=FAST_POSTGRES), first=False
    )


@pytest.fixture(scope="session")
def postgres(postgres_15: AnyServer) -> AnyServer:
    """The PostgreSQL of tests that do not depend on the release."""
    return postgres_15


@pytest.fixture(
    scope="session",
    params=["mysql", "mariadb_10", "mariadb_11"],
    ids=["mysql-9.7", "mariadb-10.11", "mariadb-11.8"],
)
def mysql_family(request: pytest.FixtureRequest) -> AnyServer:
    """Each of the three source servers."""
    server: AnyServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session", params=OLD_SERVERS)
def old_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each server of an earlier release. Its tests are slow tests: the first start downloads it."""
    with obtain_old(OLD_SERVERS[request.param]) as server:
        _used.append(server)
        yield server


@pytest.fixture(
    scope="session", params=["postgres_15", "postgres_18"], ids=["postgres-15", "postgres-18"]
)
def postgres_family(request: pytest.FixtureRequest) -> AnyServer:
    """Each of the two target servers."""
    server: AnyServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def fresh_mysql_database() -> Iterator[Callable[[AnyServer], str]]:
    """A function that creates an empty database on a server and returns its name. The database is
    dropped after the test.
    """
    made: list[tuple[AnyServer, str]] = []

    def make(server: AnyServer) -> str:
        name = f"t_{uuid4().hex[:12]}"
        with connect_mysql(server) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        made.append((server, name))
        return name

    yield make
    for server, name in made:
        drop_mysql_database(server, name)


@pytest.fixture
def new_shop() -> Iterator[Callable[[AnyServer, int], Shop]]:
    """A function that loads a shop of some rows into a new database on a server. The database is
    dropped after the test.
    """
    made: list[Shop] = []

    def make(server: AnyServer, rows: int) -> Shop:
        made.append(load_new_shop(server, rows))
        return made[-1]

    yield make
    for shop in made:
        drop_mysql_database(shop.server, shop.database)


@pytest.fixture(scope="session")
def postgres_databases() -> Iterator[PostgresDatabases]:
    """The databases of ``fresh_postgres_database``."""
    databases = PostgresDatabases()
    yield databases
    databases.close()


@pytest.fixture
def fresh_postgres_database(
    postgres_databases: PostgresDatabases,
) -> Iterator[Callable[[AnyServer], str]]:
    """A function that returns the URL of an empty database on a server, for this test alone."""
    made: list[tuple[AnyServer, str]] = []

    def make(server: AnyServer) -> str:
        made.append((server, postgres_databases.take(server)))
        return url_of(server.url, made[-1][1])

    yield make
    for server, name in made:
        postgres_databases.give_back(server, name)


@pytest.fixture
def source_database(mysql: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]) -> str:
    """The name of a new database on `mysql`."""
    return fresh_mysql_database(mysql)


@pytest.fixture(scope="session")
def native_mysql() -> Iterator[AnyServer]:
    """MySQL 9.7, where InnoDB executes foreign keys as in earlier releases."""
    with obtain(lambda: start_mysql(options=["--innodb-native-foreign-keys=ON"])) as server:
        yield server


@pytest.fixture
def target_database(
    postgres: AnyServer, fresh_postgres_database: Callable[[AnyServer], str]
) -> str:
    """The URL of a new database on `postgres`."""
    return fresh_postgres_database(postgres)


@pytest.fixture
def new_sides(
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> Iterator[Callable[..., Sides]]:
    """A function that makes `Sides` on a server and on `postgres`, with new databases. Further
    arguments are those of `Sides`.
    """
    with ExitStack() as made:

        def make(
            server: AnyServer,
            *,
            values: StoragePolicies | None = None,
            reads: ReadPolicies | None = None,
        ) -> Sides:
            schema, target = fresh_mysql_database(server), fresh_postgres_database(postgres)
            sides = Sides(server, schema, target, values=values, reads=reads)
            return made.enter_context(closing(sides))

        yield make


@pytest.fixture
def sides(mysql: AnyServer, new_sides: Callable[..., Sides]) -> Sides:
    """`Sides` on `mysql` and on `postgres`. A module whose tests need other servers or policies has
    a fixture of this name.
    """
    return new_sides(mysql)
