"""
The command line as people and scripts use it: exit statuses, output, and that no secret is printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from engine.cli.main import make_parser
from engine.cli.wiring import load_settings
from engine.proof import TableProof
from engine.sandbox import Server, start_postgres
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sources.mysql.codec import accelerator
from tests.support.commands import run_tailrace
from tests.support.engine_process import write_config
from tests.support.recorded_logs import FIXTURES
from tests.support.servers import AnyServer, connect_mysql, obtain

SECRET = "open-sesame-4711"
GIVE_UP = "[retry]\ngive_up_seconds = 1\n"
DEADLINE_SECONDS = 30


@dataclass(frozen=True)
class CommandResult:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


def tailrace(*words: str | Path) -> CommandResult:
    """Run a command to its end. Fails if it prints the secret or a traceback."""
    done = run_tailrace(*words)
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return CommandResult(done.returncode, done.stdout, done.stderr)


def on_terminal(*words: str | Path) -> tuple[int, str]:
    """The exit status of a command, and what it draws on a terminal at its standard error."""
    terminal, its_end = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "engine.cli", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=its_end,
        env=os.environ | {"COLUMNS": "200", "TERM": "xterm"},
    ) as process:
        os.close(its_end)
        drawn = bytearray()
        with suppress(OSError):  # Linux reports the end so
            while data := os.read(terminal, 1 << 16):
                drawn += data
        status = process.wait(DEADLINE_SECONDS)
    os.close(terminal)
    return status, drawn.decode()


def closed_port() -> int:
    """A port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def database(mysql: AnyServer, source_database: str) -> str:
    """A source database with one table of five rows."""
    with connect_mysql(mysql, source_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE pets (id int PRIMARY KEY, name varchar(20))")
        cursor.execute("INSERT INTO pets VALUES (1,'Rex'), (2,'Tom'), (3,'Kit'), (4,'Ida'), (5,'')")
    return source_database


@pytest.fixture
def config(mysql: AnyServer, database: str, target_database: str, tmp_path: Path) -> Path:
    """The configuration of a pipeline that has not run yet."""
    return write_config(tmp_path, mysql.url, target_database, f"{database}.*")


# -- errors ----------------------------------------------------------------------------------------


def with_password(url: str, user: str, password: str) -> str:
    return f"{url.partition('://')[0]}://{user}:{password}@{url.rpartition('@')[2]}"


@pytest.fixture
def guest_url(mysql: AnyServer, database: str) -> Iterator[str]:
    """The URL of a user with a password who may read the database."""
    with connect_mysql(mysql) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {database}@'%' IDENTIFIED BY '{SECRET}'")
        cursor.execute(f"GRANT SELECT ON {database}.* TO {database}@'%'")
        yield with_password(mysql.url, database, SECRET)
        cursor.execute(f"DROP USER {database}@'%'")


def test_a_wrong_password_of_the_source(
    guest_url: str, database: str, target_database: str, tmp_path: Path
) -> None:
    url = guest_url.replace(SECRET, f"{SECRET}0")
    result = tailrace("run", write_config(tmp_path, url, target_database, f"{database}.*"))
    assert result.status == 1
    assert f"Access denied for user '{database}'" in result.err


@pytest.fixture(scope="module")
def postgres_with_password() -> Iterator[Server]:
    """A PostgreSQL that asks the role ``guest`` for a password."""
    with obtain(start_postgres) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            (path,) = connection.execute("SHOW hba_file").fetchone() or ("",)
            rules = "('host all guest all scram-sha-256'), ('host all all all trust')"
            connection.execute("CREATE ROLE guest LOGIN PASSWORD 'another'")
            connection.execute(f"COPY (VALUES {rules}) TO '{path}'".encode())
            connection.execute("SELECT pg_reload_conf()")
        yield server


def test_a_wrong_password_of_the_target(
    mysql: AnyServer, database: str, postgres_with_password: Server, tmp_path: Path
) -> None:
    url = with_password(postgres_with_password.url, "guest", SECRET)
    result = tailrace("run", write_config(tmp_path, mysql.url, url, f"{database}.*"))
    assert result.status == 1
    assert "password authentication failed" in result.err


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_host_that_refuses_connections(
    mysql: AnyServer, database: str, target_database: str, tmp_path: Path, side: str
) -> None:
    there, password = f"127.0.0.1:{closed_port()}", SECRET
    source, target = mysql.url, target_database
    if side == "source":
        source = f"mysql://repl:{password}@{there}/"
    else:
        target = f"postgresql://tailrace:{password}@{there}/shop"
    config = write_config(tmp_path, source, target, f"{database}.*", more=GIVE_UP)
    result = tailrace("run", config, "--log-format", "json")
    assert result.status == 1
    assert "refused" in result.err
    tried = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    assert sum(line["level"] == "warning" for line in tried) >= 2


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_host_that_does_not_exist_ends_the_first_start(
    mysql: AnyServer, database: str, target_database: str, tmp_path: Path, side: str
) -> None:
    source, target = mysql.url, target_database
    if side == "source":
        source = f"mysql://repl:{SECRET}@nowhere.invalid/"
    else:
        target = f"postgresql://tailrace:{SECRET}@nowhere.invalid/shop"
    result = tailrace("run", write_config(tmp_path, source, target, f"{database}.*"))
    assert result.status == 1
    assert f"Correct the host in [{'source' if side == 'source' else 'sink'}] url" in (
        result.err.replace("correct", "Correct")
    )


def test_a_deadline_for_catching_up(config: Path) -> None:
    in_time = tailrace("run", config, "--until-caught-up", "--deadline", "60")
    assert in_time.status == 0, in_time.err
    assert tailrace("run", config, "--deadline", "60").status == 2
    late = tailrace("run", config, "--until-caught-up", "--deadline", "0.001")
    assert late.status == 1
    assert "has not caught up within 0.001 seconds" in late.err


def test_an_unknown_key(config: Path) -> None:
    config.write_text(config.read_text() + "[batch]\nmax_row = 3\n")
    result = tailrace("run", config)
    assert result.status == 2
    assert "max_row" in result.err
    assert "max_rows" in result.err


def test_a_missing_environment_variable(mysql: AnyServer, tmp_path: Path) -> None:
    url = with_password(mysql.url, "repl", "${TAILRACE_NOT_SET_ANYWHERE}")
    result = tailrace("run", write_config(tmp_path, url, "postgresql://h/shop", "shop.*"))
    assert result.status == 2
    assert "TAILRACE_NOT_SET_ANYWHERE" in result.err


def test_a_missing_file_and_no_command(tmp_path: Path) -> None:
    assert tailrace("run", tmp_path / "none.toml").status == 2
    assert tailrace().status == 2


@pytest.mark.parametrize(
    ("setting", "codecs"),
    [("", "compiled" if accelerator.AVAILABLE else "plain Python"), ("off", "plain Python")],
)
def test_the_version_names_the_codecs(
    monkeypatch: pytest.MonkeyPatch, setting: str, codecs: str
) -> None:
    monkeypatch.setenv(
        "TAILRACE_ACCELERATOR", setting or os.environ.get("TAILRACE_ACCELERATOR", "")
    )
    result = tailrace("--version")
    assert (result.status, result.out) == (
        0,
        f"tailrace {version('tailrace')} ({codecs} codecs)\n",
    )


# -- the life of a pipeline ------------------------------------------------------------------------


def test_init_writes_a_file_that_loads_and_holds_no_password(
    guest_url: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "pets.toml"
    words = ("init", guest_url + database, f"postgresql://tailrace:{SECRET}@new/pets")
    result = tailrace(*words, "--output", output)
    assert result.status == 0, result.err
    assert {"SOURCE_PASSWORD", "TARGET_PASSWORD"} <= set(result.out.split())
    text = output.read_text()
    assert SECRET not in text
    monkeypatch.setenv("SOURCE_PASSWORD", "one")
    monkeypatch.setenv("TARGET_PASSWORD", "another")
    settings = load_settings(output)
    assert settings.pipeline.name == "pets"
    assert ":one@" in settings.source.url
    assert ":another@" in settings.sink.url
    assert tailrace(*words, "--output", output).status == 2
    assert output.read_text() == text


def signing_key(folder: Path) -> Path:
    """The file of a new private key, beside that of its public key."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "key.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    spki = PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, spki))
    return private


def assert_reported(database: str, page: Path, data: Path) -> None:
    """The report of the comparison tells what differs, with the values, for its owner alone."""
    assert [stat.S_IMODE(path.stat().st_mode) for path in (page, data)] == [0o600] * 2
    words = ("--key", page.with_name("key.pub.pem"))
    assert [tailrace("report", "verify", path, *words).status for path in (page, data)] == [0, 0]
    content = json.loads(data.read_text())["content"]
    assert content["outcome"] == "different"
    assert re.fullmatch(r"(MySQL|MariaDB) \d+\..*", content["source"]["software"])
    assert re.fullmatch(r"PostgreSQL \d+\..*", content["target"]["software"])
    assert "@" not in content["source"]["address"] + content["target"]["address"]
    (table,) = content["tables"]
    expected = {"table": f"{database}.pets", "outcome": "different", "state": "live", "changed": 1}
    assert table.items() >= {**expected, "source_rows": 5, "target_rows": 5}.items()
    assert table["method"] == "checksums"
    assert table["source_checksum"] != table["target_checksum"]
    (row,) = table["rows"]
    (value,) = row["values"]
    assert (row["key"], value["column"], value["target"]) == (["4"], "name", "Max")
    assert "Max" in page.read_text()


def test_from_check_to_verify(database: str, target_database: str, config: Path) -> None:
    """GIVEN a correct configuration WHEN the commands are used in the manual's order THEN each
    reports the state of the pipeline, in its output and its exit status."""
    check = tailrace("check", config, "--json")
    assert check.status == 0, check.out
    assert {finding["level"] for finding in json.loads(check.out)} <= {"ok", "warning"}
    assert tailrace("status", config).status == 2
    assert tailrace("verify", config).status == 2

    run = tailrace("run", config, "--until-caught-up")
    assert run.status == 0
    assert "codecs=" in run.err
    status = tailrace("status", config, "--json")
    assert status.status == 1
    assert json.loads(status.out)["running"] is False
    (table,) = json.loads(status.out)["tables"]
    pets = {"table": f"{database}.pets", "state": "live", "rows": 5, "estimate": 5, "reason": ""}
    assert table.items() >= pets.items()
    assert tailrace("verify", config, "--no-record").status == 0
    assert proof_of_pets(target_database) is None
    status_code, drawn = on_terminal("verify", config)
    assert status_code == 0
    assert "comparing" in drawn
    assert f"{database}.pets" in drawn
    assert "5 rows" in drawn
    equal = proof_of_pets(target_database)
    assert equal is not None
    assert (equal.outcome, equal.rows, equal.differences) == ("equal", 5, 0)
    assert equal.equal_at == equal.started_at <= equal.ended_at
    assert equal.position

    with psycopg.connect(target_database, autocommit=True) as there:
        there.execute(f"UPDATE {database}.pets SET name = 'Max' WHERE id = 4".encode())
    page, data = config.with_name("report.html"), config.with_name("report.json")
    page.write_text("an older report, which others may read")
    files = ("--report", page, "--report", data, "--sign", signing_key(config.parent))
    verify = tailrace("verify", config, "--deadline-seconds", "5", "--json", *files)
    assert verify.status == 3
    assert_reported(database, page, data)
    (report,) = json.loads(verify.out)["tables"]
    assert (report["differing"], report["hot"]) == (1, 0)
    assert report["differences"] == [{"kind": "changed", "key": ["4"], "columns": ["name"]}]
    different = proof_of_pets(target_database)
    assert different is not None
    assert (different.outcome, different.rows, different.differences) == ("different", 5, 1)
    assert different.equal_at == equal.started_at < different.started_at

    with psycopg.connect(target_database, autocommit=True) as there:
        there.execute("DROP TABLE tailrace.proof")  # as in a state of an older version
    pets = "--table", f"{database}.pets"
    shown = tailrace("verify", config, "--deadline-seconds", "5", *pets, *pets)
    assert f"{database}.pets (4): changed in name" in shown.out
    assert " + " not in shown.out
    assert "Max" not in shown.out + verify.out
    assert "the outcome is not stored" in shown.err
    assert str(config) in shown.err


def proof_of_pets(url: str) -> TableProof | None:
    """The stored proof of the only table."""
    proofs = asyncio.run(PostgresSink(PostgresSettings(url), "mirror").proofs())
    return next(iter(proofs.values()), None)


def test_a_quarantined_table_is_named_with_the_way_on(
    mysql: AnyServer, database: str, config: Path
) -> None:
    """GIVEN the policy to quarantine WHEN the log does not show a change THEN each command says so,
    and the message says how the table is followed again."""
    text = config.read_text()
    config.write_text(f'{text}\n[backfill]\nunlogged_change = "quarantine"\n')
    assert tailrace("run", config, "--until-caught-up").status == 0
    with connect_mysql(mysql, database) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE pets ADD length INT AS (CHAR_LENGTH(name)) STORED")
    run = tailrace("run", config, "--until-caught-up")
    assert run.status == 3
    remedy = f"`tailrace backfill {config} {database}.pets` reads the table again"
    assert remedy in run.err
    status = tailrace("status", config)
    assert f"{database}.pets is quarantined: ALTER TABLE fills a column" in status.out
    assert remedy in " ".join(status.out.split())
    assert "ALTER TABLE pets ADD length INT" in " ".join(status.out.split())
    verify = tailrace("verify", config)
    assert verify.status == 3
    assert "quarantined" in verify.out

    tables = tailrace("tables", config)
    assert tables.status == 3
    assert remedy in " ".join(tables.out.split())
    wrong = tailrace("backfill", config, f"{database}.dogs")
    assert wrong.status == 2
    assert f"`tailrace tables {config}`" in wrong.err
    asked = tailrace("backfill", config, f"{database}.pets")
    assert asked.status == 0, asked.err
    assert f"`tailrace run {config}`" in asked.out
    assert tailrace("run", config, "--until-caught-up").status == 0
    assert tailrace("tables", config, "--json").status == 0
    assert tailrace("verify", config).status == 0


def test_tail_prints_records(mysql: AnyServer, database: str, config: Path) -> None:
    assert tailrace("run", config, "--until-caught-up").status == 0
    with connect_mysql(mysql, database) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO pets VALUES (6, 'Bo'), (7, 'Al')")
        cursor.execute("UPDATE pets SET name = 'Moritz' WHERE id = 5")
        cursor.execute("DELETE FROM pets WHERE id = 1")
    result = tailrace("tail", config, "--from", "checkpoint", "--limit", "3")
    assert result.status == 0, result.err
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [record["op"] for record in records] == ["insert", "insert", "update"]


def test_init_writes_a_file_for_log_files(tmp_path: Path) -> None:
    config = tmp_path / "archive.toml"
    logs = FIXTURES / "mysql-9.7"
    result = tailrace("init", f"mysql-binlog:{logs}", "jsonl:-", "--output", config)
    assert result.status == 0, result.err
    assert "0 tables" not in result.out
    text = config.read_text()
    assert f'url = "mysql-binlog:{logs}"' in text
    assert "schema" in text
    assert tailrace("check", config).status == 0
    shown = tailrace("tail", config, "--limit", "2").out
    assert [json.loads(line)["op"] for line in shown.splitlines()] == ["schema"] * 2


@pytest.mark.parametrize(
    "words",
    [
        "dead-letters shop.toml discard --yes 17 18",
        "dead-letters --yes shop.toml discard 17 18",
        "dead-letters shop.toml --deadline-seconds 5 discard 17 --yes 18",
    ],
)
def test_options_stand_anywhere(words: str) -> None:
    options = make_parser().parse_args(words.split())
    assert (options.action, options.ids, options.yes) == ("discard", [17, 18], True)


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("dead-letters shop.toml", "list|show|retry|discard"),
        ("dead-letters", "CONFIG, list|show|retry|discard"),
        ("backfill", "CONFIG"),
        ("schema", "diff|apply, CONFIG"),
    ],
)
def test_what_is_missing_on_a_command_line(
    words: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(words.split())
    assert capsys.readouterr().err.endswith(f"arguments are required: {missing}\n")


@pytest.mark.parametrize("seconds", ["-5", "0", "nan", "inf", "soon"])
@pytest.mark.parametrize("words", ["verify shop.toml", "pause shop.toml"])
def test_a_time_is_a_positive_number(words: str, seconds: str) -> None:
    with pytest.raises(SystemExit) as refused:
        make_parser().parse_args([*words.split(), f"--deadline-seconds={seconds}"])
    assert refused.value.code == 2
