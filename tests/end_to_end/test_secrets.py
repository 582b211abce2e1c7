"""
No value of a row and no secret is in the log, in what the API answers, in what commands print, or
in the state in the target, except where it belongs.

Values that can be recognized are planted in rows, keys, defaults, members of ENUMs, comments,
statements, passwords, tokens and the key of masks. Then errors of many kinds are caused.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.ops.log_fields import FIELDS
from tests.support.commands import run_tailrace
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

WORD = "planted"
NUMBER = 918273645
PLANTED = re.compile(rf"{WORD}|{NUMBER}", re.IGNORECASE)
KEY = re.compile(rf"{WORD}-\d")
PASSWORD, READ, CONTROL = "Planted-password", "planted-token-to-read", "planted-token-control"

#: Columns of the state that need values: definitions of tables, with defaults and members of
#: ENUMs, the last key of a backfill, and the refused rows of open dead letters.
BELONG = {("table_version", "definition"), ("table_progress", "cursor")} | {
    ("dead_letter", "key"),
    ("dead_letter", "images"),
}

CONFIG = f"""
[api]
read_token = "{READ}"
control_token = "{CONTROL}"
[log]
level = "debug"
[errors]
on_error = "quarantine"
tables = {{ "*.letters" = "dead_letter", "*.zeroed" = "dead_letter" }}
[sink.values]
nul_byte = "error"
[backfill]
unlogged_change = "quarantine"
[mask]
key = "{WORD}-mask-key-0123456789"
[mapping."*.masked"]
mask = {{ note = "hash" }}
[mapping."*.asserted"]
assert = "n < 100"
"""

COLUMNS = f"""
(id VARCHAR(40) PRIMARY KEY, n INT, note VARCHAR(100) DEFAULT '{WORD}-default',
 kind ENUM('a', '{WORD}-member'), at DATETIME COMMENT '{WORD}-comment') COMMENT '{WORD}-table'
"""
#: What is done on the target, by table, so that it refuses the row that is inserted next.
REFUSED = {
    "letters": "ALTER TABLE {t} ADD CONSTRAINT small CHECK (n < 100)",
    "zeroed": "SELECT",
    "narrow": "ALTER TABLE {t} ALTER n TYPE smallint",
    "short": "ALTER TABLE {t} ALTER note TYPE varchar(5) USING 'x'",
    "dated": "ALTER TABLE {t} ALTER note DROP DEFAULT, ALTER note TYPE date USING NULL",
    "unique_n": "CREATE UNIQUE INDEX ON {t} (n)",
    "guarded": "CREATE FUNCTION {s}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE"
    " 'refused: %', NEW; END $$; CREATE TRIGGER refuse BEFORE INSERT ON {t} FOR EACH ROW"
    " EXECUTE FUNCTION {s}.refuse(); ALTER TABLE {t} ENABLE ALWAYS TRIGGER refuse",
    "asserted": "SELECT",
    "partitioned": "ALTER TABLE {t} ADD CONSTRAINT other EXCLUDE (n WITH =)",
}
#: Statements on tables of their own, which quarantine these.
STATEMENTS = {
    "logged": f"UPDATE logged SET note = '{WORD}-statement', n = {NUMBER} WHERE n > 0",
    "defaulted": "ALTER TABLE defaulted ADD d VARCHAR(80) DEFAULT"
    f" (CONCAT('{WORD}-expression', note))",
    "cut": f"ALTER TABLE cut ADD g INT AS (IF(note = '{WORD}-g', {NUMBER}, 2)) STORED",
    "listed": f"ALTER TABLE listed MODIFY kind ENUM('{WORD}-other', 'a', '{WORD}-member')",
}
#: Tables that go on.
MORE = ("masked", "plain")


def insert(table: str, key: str) -> str:
    text = f"{WORD}-\\0" if table == "zeroed" else f"{WORD}-row"
    return (
        f"INSERT INTO {table} VALUES"
        f" ('{WORD}-{key}', {NUMBER}, '{text}', '{WORD}-member', '2026-01-01')"
    )


@pytest.fixture
def logins(mysql: AnyServer, postgres: AnyServer) -> Iterator[None]:
    """Users with a planted password."""
    with connect_mysql(mysql) as source, source.cursor() as cursor:
        cursor.execute(f"CREATE USER keeper IDENTIFIED BY '{PASSWORD}'")
        cursor.execute("GRANT ALL ON *.* TO keeper")
        with psycopg.connect(postgres.url, autocommit=True) as target:
            target.execute(f"CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{PASSWORD}'".encode())
            yield
            target.execute("DROP ROLE keeper")
        cursor.execute("DROP USER keeper")


def as_keeper(url: str, password: str = PASSWORD) -> str:
    return re.sub(r"//[^@/]*@?(?=[^@]*(/|$))", f"//keeper:{password}@", url, count=1)


def get(engine: EngineProcess, path: str, token: str = READ, data: bytes | None = None) -> str:
    """The answer, also if it is an error."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{engine.port}{path}",
        data,
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())


def states(engine: EngineProcess) -> dict[str, str]:
    try:
        status = json.loads(get(engine, "/status"))
    except OSError:
        return {}
    return {it["table"].split(".")[1]: it["state"] for it in status["tables"]}


def assert_clean(what: str, text: str) -> None:
    found = PLANTED.search(text)
    assert found is None, f"{what}: … {text[max(0, found.start() - 300) : found.end() + 100]}"


def assert_state_is_clean(target: psycopg.Connection[Any]) -> None:
    """Every column of every table of the state, as text."""
    tables = target.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'tailrace'"
    ).fetchall()
    assert len(tables) > 20
    for table, column in tables:
        if (table, column) not in BELONG:
            query = f'SELECT "{column}"::text FROM tailrace."{table}"'
            rows = target.execute(query.encode()).fetchall()
            assert_clean(f"tailrace.{table}.{column}", " ".join(str(row[0]) for row in rows))


def test_values_and_secrets_stay_where_they_belong(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
    logins: None,
) -> None:
    """GIVEN two engines that log as text and as JSON, at the level debug WHEN the target refuses
    rows, statements cannot be followed, clients present wrong tokens and passwords, both sides are
    compared THEN nothing that is planted is anywhere it does not belong.
    """
    database = fresh_mysql_database(mysql)
    tables = (*REFUSED, *STATEMENTS, *MORE)
    configs = {}
    with ExitStack() as stack:
        source = stack.enter_context(connect_mysql(mysql, database))
        cursor = stack.enter_context(source.cursor())
        for table in tables:
            cursor.execute(f"CREATE TABLE {table} {COLUMNS}")
            cursor.execute(f"INSERT INTO {table} VALUES ('{WORD}-0', 1, 'x', 'a', NULL)")
        source.commit()
        engines: list[EngineProcess] = []
        targets = []
        for format in ("text", "json"):
            url = fresh_postgres_database(postgres)
            configs[format] = write_config(
                *(tmp_path, as_keeper(mysql.url), as_keeper(url), f"{database}.*"),
                name=format,
                more=CONFIG,
            )
            target = stack.enter_context(psycopg.connect(url, autocommit=True))
            stack.callback(target.execute, b"REASSIGN OWNED BY keeper TO CURRENT_USER")
            targets.append(target)
            engines.append(
                stack.enter_context(EngineProcess(configs[format], "--log-format", format))
            )
        for engine in engines:
            wait_until(lambda engine=engine: set(states(engine).values()) == {"live"}, timeout=60)
        cause_trouble(cursor, source, targets, database)
        expected = dict.fromkeys((*REFUSED, "logged"), "quarantined") | dict.fromkeys(
            ("letters", "zeroed", *MORE), "live"
        )
        for engine in engines:
            ended = lambda engine=engine: expected.items() <= states(engine).items()  # noqa: E731
            wait_until(ended, timeout=60, what="the states of the tables")
        for engine in engines:
            assert_engine_is_clean(engine)
        for config in configs.values():
            assert_commands_are_clean(config)
        for target in targets:
            assert_state_is_clean(target)
        for engine in engines:
            engine.terminate()
            assert_clean("the log", engine.log.read_text())
        for line in engines[1].log.read_text().splitlines():
            fields = json.loads(line)
            known = {*FIELDS, "time", "level", "logger", "message", "exception"}
            assert not fields.keys() - known
            assert fields["pipeline"] == "json"


def cause_trouble(
    cursor: Any, source: Any, targets: list[psycopg.Connection[Any]], database: str
) -> None:
    for table, statement in REFUSED.items():
        for target in targets:
            place = {"t": f'"{database}".{table}', "s": f'"{database}"'}
            target.execute(statement.format(**place).encode())
        for key in ("1", "2"):
            cursor.execute(insert(table, key))
    for table in MORE:
        cursor.execute(insert(table, "1"))
    source.commit()
    for table, statement in STATEMENTS.items():
        cursor.execute(f"SET SESSION binlog_format = {'STATEMENT' if table == 'logged' else 'ROW'}")
        cursor.execute(statement)
        source.commit()
    for target in targets:
        target.execute(f"UPDATE \"{database}\".plain SET note = '{WORD}-target'".encode())
        target.execute(f"ALTER ROLE keeper PASSWORD '{PASSWORD}'".encode())


def assert_engine_is_clean(engine: EngineProcess) -> None:
    assert_answers_are_clean(engine)
    assert_events_are_clean(engine)
    assert_processes_are_clean(engine)


def assert_answers_are_clean(engine: EngineProcess) -> None:
    data = ("/status", "/metrics", "/commands", "/history", "/health/ready", "/openapi.json")
    for path in (*data, "/", "/assets/dashboard.js", "/runbook"):
        for token in (READ, CONTROL, f"{WORD}-wrong-token", ""):
            assert_clean(path, get(engine, path, token))
    for body in (b"{}", f'{{"command": "{WORD}"}}'.encode(), f'"{WORD}"'.encode(), b"\xff"):
        assert_clean("POST /commands", get(engine, "/commands", CONTROL, body))
    get(engine, "/status?token=" + READ, READ)
    command = b'{"command": "quarantine", "tables": ["nothing.matches"]}'
    assert '"id"' in get(engine, "/commands", CONTROL, command)  # assert_state_is_clean reads it
    recorded = get(engine, "/commands")
    assert "control token" in recorded
    assert_clean("the record of commands", recorded)


def assert_events_are_clean(engine: EngineProcess) -> None:
    """What the dashboard is sent: the status, and all tables with their reasons."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{engine.port}/events", headers={"Authorization": f"Bearer {READ}"}
    )
    text = ""
    with urllib.request.urlopen(request, timeout=10) as stream:
        while text.count("\n\n") < 2:  # the status, then the tables
            text += stream.readline().decode()
    assert "event: tables" in text
    assert "quarantined" in text
    assert_clean("/events", text)


def assert_processes_are_clean(engine: EngineProcess) -> None:
    """The command lines of the engine and of its children, which all users of the machine see."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,ppid=,args=", "-A"], capture_output=True, text=True, timeout=10
    )
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    family = {str(engine.process.pid)}
    for pid, parent, _ in lines:  # a child has a later line
        if parent in family:
            family.add(pid)
    shown = [words for pid, _, words in lines if pid in family]
    assert any("engine.cli" in words for words in shown)
    assert_clean("ps", " ".join(shown))


def assert_commands_are_clean(config: Path) -> None:
    for words in (
        ("tables", config),
        ("tables", config, "--json"),
        ("status", config),
        ("status", config, "--json"),
        ("commands", config),
        ("check", config),
        ("dead-letters", config, "list"),
        ("verify", config),
    ):
        _, text = run(*words)
        if words[0] in ("verify", "dead-letters"):
            text = KEY.sub("", text)  # these commands show keys
        assert_clean(" ".join(map(str, words)), text)
    wrong = config.with_name("wrong.toml")
    wrong.write_text(config.read_text().replace(PASSWORD, f"{PASSWORD}-wrong"))
    status, text = run("run", wrong)
    assert status, text
    assert_clean("a wrong password", text)
    status, text = run("check", wrong)
    assert_clean("a wrong password", text)
    wrong.write_text(config.read_text().replace("[api]", f'[api]\nlisten = "{WORD}"', 1))
    run("run", wrong)


def run(*words: str | Path) -> tuple[int, str]:
    """A command line's exit status and output."""
    done = run_tailrace(*words)
    return done.returncode, done.stdout + done.stderr
