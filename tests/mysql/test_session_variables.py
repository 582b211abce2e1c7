"""
The session variables of our own connections: what is read does not depend on the server's global
values, nor on its ``init_connect``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import zip_longest
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from engine.databases.mysql import session_variables
from engine.databases.mysql.connect import connect, is_mariadb, query, version_number
from engine.databases.mysql.session_variables import (
    IDLE_SECONDS,
    VARIABLES,
    Variable,
    assignments,
)
from engine.errors import SourceError, SourceLost
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.global_variables import literal, set_globally, variables
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.old_servers import OLD_SERVERS
from tests.support.servers import AnyServer, connect_mysql, obtain_old

ROWS = 1500
#: Values of global variables that change what a statement returns, or whether it succeeds. A server
#: without one of them is asked for the others.
ODD: Mapping[str, object] = {
    "autocommit": 0,
    "big_tables": 1,
    "block_encryption_mode": "aes-256-cbc",
    "character_set_client": "latin1",
    "character_set_connection": "latin1",
    "character_set_filesystem": "latin1",
    "character_set_results": "latin1",
    "character_set_server": "ucs2",
    "collation_connection": "utf16_bin",
    "completion_type": "RELEASE",
    "default_regex_flags": "DOTALL,EXTENDED",
    "default_week_format": 6,
    "div_precision_increment": 0,
    "group_concat_max_len": 4,
    "idle_readonly_transaction_timeout": 1,
    "idle_transaction_timeout": 1,
    "in_predicate_conversion_threshold": 2,
    "information_schema_stats_expiry": 0,
    "join_buffer_size": 1024,
    "lc_messages": "de_DE",
    "lc_time_names": "fi_FI",
    "lock_wait_timeout": 1,
    "low_priority_updates": 1,
    "max_execution_time": 1,
    "max_join_size": 1,
    "max_length_for_sort_data": 4,
    "max_sort_length": 8,
    "max_statement_time": 0.02,
    "net_read_timeout": 1,
    "net_write_timeout": 1,
    "old_mode": "ZERO_DATE_TIME_CAST,NO_PROGRESS_INFO",
    "show_create_table_verbosity": 1,
    "show_gipk_in_create_table_and_information_schema": 0,
    "sort_buffer_size": 32768,
    "sql_auto_is_null": 1,
    "sql_quote_show_create": 0,
    "sql_buffer_result": 1,
    "sql_mode": "ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,HIGH_NOT_PRECEDENCE,"
    "NO_UNSIGNED_SUBTRACTION,TRADITIONAL",
    "sql_safe_updates": 1,
    "sql_select_limit": 7,
    "system_versioning_asof": "2001-01-01 00:00:00",
    "time_zone": "+05:30",
    "tmp_table_size": 1024,
    "tx_isolation": "READ-UNCOMMITTED",
    "tx_read_only": 1,
    "transaction_isolation": "SERIALIZABLE",
    "transaction_read_only": 1,
    "wait_timeout": 2,
    "wsrep_dirty_reads": 1,
}
#: The modes that only MariaDB has.
MARIADB_MODE = "ORACLE,EMPTY_STRING_IS_NULL,PAD_CHAR_TO_FULL_LENGTH,TIME_ROUND_FRACTIONAL"


class Legacy(NamedTuple):
    """A database with tables whose rows a session's variables can change."""

    server: AnyServer
    database: str

    def settings(self, user: str = "root:") -> MySQLSettings:
        """The settings of a source that follows it."""
        url = f"mysql://{user}@{self.server.host}:{self.server.port}/"
        return MySQLSettings(url=url, tables=(f"{self.database}.*",))


def make_tables(writer: Writer) -> None:
    writer(
        "SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00', foreign_key_checks = 0",
        "CREATE TABLE digits (d INT PRIMARY KEY)",
        "INSERT INTO digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
        "CREATE TABLE by_id (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, c CHAR(10), t TIMESTAMP"
        " NULL, d DATETIME(3), f FLOAT, n DECIMAL(20,5), u INT UNSIGNED, e ENUM('a','b') NOT NULL,"
        " j JSON, x TIME(2), month VARCHAR(20) AS (DATE_FORMAT(d, '%M')) VIRTUAL,"
        " week INT AS (WEEK(d)) VIRTUAL, ratio DECIMAL(20,9) AS (n / 7) VIRTUAL,"
        " latin VARCHAR(20) CHARACTER SET latin1)",
        "CREATE TABLE keyless (a INT, b VARCHAR(20) NOT NULL DEFAULT '') ENGINE=InnoDB",
        "CREATE TABLE by_text (k VARCHAR(190) NOT NULL, v INT, PRIMARY KEY (k))",
        "CREATE TABLE by_enum (e ENUM('z','a') NOT NULL, s SET('y','x') NOT NULL, d DATE NOT NULL,"
        " PRIMARY KEY (e, s, d))",
        "CREATE TABLE my_isam (id INT PRIMARY KEY, v CHAR(5)) ENGINE=MyISAM",
        "CREATE TABLE no_rows (id INT PRIMARY KEY)",
    )
    number = "a.d + 10 * b.d + 100 * c.d + 1000 * d.d"
    many = f"FROM digits a, digits b, digits c, digits d WHERE {number} < {ROWS}"
    writer(
        f"INSERT INTO by_id (c, t, d, f, n, u, e, j, x, latin) SELECT 'x', '2024-03-10 02:30:00',"
        f" DATE_ADD('2024-01-01', INTERVAL {number} HOUR), {number} / 3, {number} / 8, {number},"
        f" 'b', '{{\"a\": 1}}', '-830:00:01.5', x'e9' {many}",
        f"INSERT INTO keyless SELECT {number}, '' {many} AND {number} < 300",
        f"INSERT INTO by_text SELECT CONCAT(REPEAT('long prefix ', 12), {number}), {number} {many}"
        f" AND {number} < 300",
        "INSERT INTO by_text VALUES ('', 1), ('É', 2), ('''\"\\\\', 3)",
        "INSERT INTO by_enum VALUES ('z', 'y', '0000-00-00'), ('a', 'x,y', '2001-02-31'),"
        " ('a', '', '2001-02-28')",
        f"INSERT INTO my_isam SELECT {number}, 'm' {many} AND {number} < 300",
        "UPDATE by_id SET d = '0000-00-00' WHERE id = 5",
    )
    if writer.server.kind == "mysql":
        writer(
            "SET sql_generate_invisible_primary_key = 1",
            "CREATE TABLE hidden_key (v INT)",
            "INSERT INTO hidden_key VALUES (1), (2)",
        )
    else:
        writer(
            "CREATE TABLE versioned (id INT PRIMARY KEY, v INT) WITH SYSTEM VERSIONING",
            "INSERT INTO versioned VALUES (1, 1), (2, 2)",
            "UPDATE versioned SET v = 3",
        )


def observe(source: MySQLSource) -> dict[str, object]:
    """Everything that Tailrace reads of the source's tables, through each kind of session."""
    tables = source.catalog()
    seen: dict[str, object] = {"tables": tables, "check": source.check()}
    seen["estimates"] = sorted(source.estimates(tables))
    position = source.position()
    with closing(source.row_reader()) as reader:
        for table in tables:
            name = table.id.name
            chunks = source.chunks(table, None, position, rows=400, readers=2)
            seen[f"{name}: backfill"] = [row for chunk in chunks for row in chunk.rows]
            seen[f"{name}: scan"] = sorted(row for rows in reader.scan(table) for row in rows)
            seen[f"{name}: count"] = reader.count(table)
            if table.key:
                keys = reader.chunk(table, None, 600, keys_only=True)
                seen[f"{name}: keys"] = keys
                seen[f"{name}: next"] = reader.chunk(table, keys[1] if keys else None, 50)
                seen[f"{name}: by keys"] = sorted(reader.by_keys(table, keys[:40]))
    seen["empty"] = [chunk.table.id.name for chunk in source.empty(tables, position)]
    return seen


@pytest.fixture
def legacy(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Legacy:
    legacy = Legacy(mysql_family, fresh_mysql_database(mysql_family))
    writer = Writer(*legacy)
    make_tables(writer)
    writer.connection.close()
    return legacy


def odd_values(server: AnyServer) -> dict[str, object]:
    """The odd values, with the SQL modes of the server."""
    if server.kind == "mysql":
        return dict(ODD)
    return {**ODD, "sql_mode": f"{MARIADB_MODE},NO_BACKSLASH_ESCAPES"}


def seen_by(settings: MySQLSettings) -> dict[str, object]:
    """What a new source sees."""
    with closing(MySQLSource(settings)) as source:
        return observe(source)


def differences(seen: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """The names of what differs."""
    return [what for what in expected if seen.get(what) != expected[what]]


def test_reads_do_not_depend_on_global_variables(legacy: Legacy) -> None:
    expected = seen_by(legacy.settings())
    with set_globally(legacy.server, odd_values(legacy.server)):
        seen = seen_by(legacy.settings())
    assert differences(seen, expected) == []


def test_reads_do_not_depend_on_init_connect(legacy: Legacy) -> None:
    """The server executes ``init_connect`` at the login of each user without SUPER."""
    name = f"t_{uuid4().hex[:12]}"
    settings = legacy.settings(f"{name}:x")
    with connect_mysql(legacy.server) as connection:
        query(connection, f"CREATE USER {name}@'%' IDENTIFIED BY 'x'")
        try:
            rights = "SELECT, LOCK TABLES, REPLICATION SLAVE, REPLICATION CLIENT"
            query(connection, f"GRANT {rights} ON *.* TO {name}@'%'")
            expected = seen_by(settings)
            odd = {**odd_values(legacy.server), "use_secondary_engine": "FORCED"}
            values = [f"{name} = {literal(str(value))}" for name, value in odd.items()]
            values = [each for each in values if may_set(settings, each)]
            assert len(values) > len(odd) / 2
            with set_globally(legacy.server, {"init_connect": f"SET {', '.join(values)}"}):
                assert differences(seen_by(settings), expected) == []
        finally:
            query(connection, f"DROP USER {name}@'%'")


def may_set(settings: MySQLSettings, assignment: str) -> bool:
    """Whether the user can set a variable to a value."""
    with closing(connect(settings)) as connection:
        try:
            query(connection, f"SET {assignment}")
        except SourceError:
            return False
    return True


def test_a_server_without_a_variable_gets_the_others(
    mysql: AnyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        session_variables, "VARIABLES", (Variable("no_such_variable", "1"), *VARIABLES)
    )
    with closing(connect(MySQLSettings(url=mysql.url))) as connection:
        found = query(connection, "SELECT @@sql_mode, @@lc_time_names, @@wait_timeout")
    assert found == [("ALLOW_INVALID_DATES", "en_US", IDLE_SECONDS)]


def test_statements_have_the_usual_plans(mysql_family: AnyServer) -> None:
    """With a shallow search for plans, MySQL reads a large catalog too slowly to begin: each read
    ends at the connection's timeout.
    """
    odd = {"optimizer_search_depth": 1, "range_optimizer_max_mem_size": 1}

    def of_a_new_session() -> dict[str, str]:
        with closing(connect(MySQLSettings(url=mysql_family.url))) as connection:
            found = variables(connection, "SESSION")
        return {name: value for name, value in found.items() if name in odd}

    with connect_mysql(mysql_family) as connection:
        usual = variables(connection, "GLOBAL")
    with set_globally(mysql_family, odd):
        seen = of_a_new_session()
    assert "optimizer_search_depth" in seen
    assert seen == {name: usual[name] for name in seen}


def check_versions(server: AnyServer) -> None:
    """Each variable exists on the server, and those that are left out do not."""
    with connect_mysql(server) as connection:
        known = variables(connection, "SESSION").keys()
        mariadb, version = is_mariadb(connection), version_number(connection)
        query(connection, f"SET {', '.join(assignments(mariadb, version))}")
    chosen = {each.name for each in VARIABLES if each.exists(mariadb, version)}
    assert chosen <= known
    # For some releases a variable has two names.
    left_out = {each.name for each in VARIABLES} & known - chosen
    assert {name for name in left_out if not name.startswith(("tx_", "transaction_"))} == set()


def test_the_versions_of_the_variables(mysql_family: AnyServer) -> None:
    check_versions(mysql_family)


@pytest.mark.slow
@pytest.mark.parametrize("name", OLD_SERVERS)
def test_the_versions_of_the_variables_on_old_servers(name: str) -> None:
    with obtain_old(OLD_SERVERS[name]) as server:
        check_versions(server)


#: Limits of the server's resources: a read that needs more fails.
LIMITS = {"max_session_mem_used", "tmp_disk_table_size"}
#: Variables that ``check`` has findings about.
REPORTED = ("binlog_format", "binlog_row_image", "binlog_row_value_options", "server_id")
#: Variables whose value is a set; each member is tried alone.
SETS = ("sql_mode", "old_mode", "new_mode", "optimizer_switch")
#: How many variables have an odd value at once.
AT_ONCE = 12


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_session_variable_changes_a_read_silently(legacy: Legacy) -> None:
    """Each session variable of the server, at its smallest and largest value and some others."""
    expected = seen_by(legacy.settings())
    accepted = accepted_values(legacy.server)
    silent: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    for values in zip_longest(*accepted.values()):
        chosen = [
            (name, value) for name, value in zip(accepted, values, strict=True) if value is not None
        ]
        for at in range(0, len(chosen), AT_ONCE):
            for odd, trouble in troubles(legacy, expected, chosen[at : at + AT_ONCE]):
                names = ", ".join(f"{name} = {value}" for name, value in odd)
                if isinstance(trouble, list):
                    silent[names] = trouble
                elif not LIMITS.issuperset(name for name, _ in odd):
                    failed[names] = trouble
    assert silent == {}
    assert failed == {}


Values = Sequence[tuple[str, int]]


def troubles(
    legacy: Legacy, expected: Mapping[str, object], odd: Values
) -> Iterator[tuple[Values, list[str] | str]]:
    """The smallest sets of these values with which a read differs or fails: what differs, or the
    error.
    """
    trouble = differs(legacy, expected, odd)
    if not trouble:
        return
    middle = len(odd) // 2
    found = [
        each
        for half in (odd[:middle], odd[middle:])
        if 0 < len(half) < len(odd)
        for each in troubles(legacy, expected, half)
    ]
    yield from found or [(odd, trouble)]


def differs(legacy: Legacy, expected: Mapping[str, object], odd: Values) -> list[str] | str:
    """What a new source sees differently with these global values, or its error."""
    with set_globally(legacy.server, dict(odd)):
        try:
            return differences(seen_again(legacy), expected)
        except (SourceError, SourceLost) as error:
            return str(error)


def seen_again(legacy: Legacy) -> dict[str, object]:
    """What a source sees that connects again after a lost connection, as a pipeline does: the
    server may end a session before it sets its variables.
    """
    try:
        return seen_by(legacy.settings())
    except SourceLost:
        return seen_by(legacy.settings())


def accepted_values(server: AnyServer) -> dict[str, list[int]]:
    """The session variables that have a global value, and different values that each can get."""
    settings = MySQLSettings(url=server.url)
    accepted: dict[str, list[int]] = {}
    with connect_mysql(server) as connection:
        own, shared = variables(connection, "SESSION"), variables(connection, "GLOBAL")
        for name in sorted(own.keys() & shared.keys() - set(REPORTED)):
            if may_set(settings, f"{name} = DEFAULT"):
                accepted[name] = list(dict(_accepted(connection, name)).values())
                if accepted[name]:
                    query(connection, f"SET GLOBAL {name} = {literal(shared[name])}")
    return accepted


def _accepted(connection: Any, name: str) -> Iterator[tuple[object, int]]:
    """What the global variable is after an assignment, and the assigned value."""
    for value in (0, 1, 2, 2**62) if name not in SETS else (1 << bit for bit in range(40)):
        with suppress(SourceError):
            query(connection, f"SET GLOBAL {name} = {value}")
            ((shown,),) = query(connection, f"SELECT @@GLOBAL.{name}")
            yield shown, value
