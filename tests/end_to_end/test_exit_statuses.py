"""
The same mistake has the same exit status from every command, and an error with a hint.

0: success, 1: failure, 2: wrong usage or configuration, 3: differences, or quarantined tables,
4: a newer engine has taken over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.cli.main import main
from tests.support.engine_process import EngineProcess, write_config
from tests.support.recorded_logs import FIXTURES
from tests.support.servers import AnyServer, connect_mysql

GIVE_UP = "[retry]\ngive_up_seconds = 0.5\nfirst_seconds = 0.1\n"
FOLLOWED = "{d}.pets"

#: Each command with what follows the configuration.
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": (),
    "run": ("--until-caught-up", "--no-progress"),
    "status": (),
    "tables": (),
    "backfill": (FOLLOWED,),
    "quarantine": (FOLLOWED,),
    "commands": ("list",),
    "skip": ("--statement", "binlog.000001:999999999", "--yes"),
    "dead-letters": ("list",),
    "reset": ("--yes",),
    "verify": (),
    "tail": ("--from", "checkpoint", "--limit", "1"),
}
EVERY = frozenset(COMMANDS)
#: The commands that need a checkpoint.
AFTER_A_RUN = EVERY - {"check", "run", "commands", "reset"}
#: The commands that work with PostgreSQL only.
NEED_POSTGRESQL = frozenset(
    ("backfill", "quarantine", "commands", "skip", "dead-letters", "reset", "verify")
)
#: The commands that connect to the source.
OF_THE_SOURCE = frozenset(("check", "run", "verify"))


class Outcome(NamedTuple):
    """The exit status of a command, and what it prints on standard error."""

    status: int
    said: str


@pytest.fixture
def outcome(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command in this process."""
    logger = logging.getLogger("tailrace")

    def execute(command: str, config: Path, *words: str) -> Outcome:
        logger.handlers[:] = []
        status = main([command, str(config), *words])
        return Outcome(status, capfd.readouterr().err)

    return execute


@pytest.fixture
def database(mysql: AnyServer, source_database: str) -> str:
    """A source database with one table."""
    with connect_mysql(mysql, source_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE pets (id int PRIMARY KEY, name varchar(20))")
        cursor.execute("INSERT INTO pets VALUES (1, 'Rex'), (2, 'Tom')")
    return source_database


def options(command: str, database: str) -> list[str]:
    return [word.format(d=database) for word in COMMANDS[command]]


# -- the configuration -----------------------------------------------------------------------------

BROKEN = {
    "no file": "",
    "not TOML": "[source\n",
    "an unknown key": '[source]\nurl = "mysql://h/"\ntabels = []\n[sink]\nurl = "jsonl:-"\n',
    "no source": '[sink]\nurl = "jsonl:-"\n',
    "an unknown kind of source": '[source]\nurl = "oracle://h/"\n[sink]\nurl = "jsonl:-"\n',
    "a secret that is not set": (
        '[source]\nurl = "mysql://u:${TAILRACE_NOT_SET_ANYWHERE}@h/"\n[sink]\nurl = "jsonl:-"\n'
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_wrong_configuration(
    outcome: Callable[..., Outcome], tmp_path: Path, mistake: str
) -> None:
    config = tmp_path / "p.toml"
    if BROKEN[mistake]:
        config.write_text(BROKEN[mistake])
    for command in COMMANDS:
        found = outcome(command, config, *options(command, "shop"))
        assert found.status == 2, (command, found)
        assert "what to do: " in found.said, (command, found)


def test_a_target_that_keeps_no_commands(outcome: Callable[..., Outcome], tmp_path: Path) -> None:
    config = tmp_path / "p.toml"
    config.write_text(
        f'[source]\nurl = "mysql-binlog:{FIXTURES / "mysql-9.7"}"\n'
        f'[sink]\nurl = "jsonl:{tmp_path}/out.jsonl"\n'
    )
    assert outcome("run", config).status in (0, 3)
    for command in sorted(NEED_POSTGRESQL):
        found = outcome(command, config, *options(command, "tailrace"))
        assert found.status == 2, (command, found)
        assert "what to do: " in found.said, (command, found)


# -- the servers -----------------------------------------------------------------------------------


def other_user(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://tailrace_nobody:wrong@{rest.rpartition('@')[2]}"


def other_host(url: str) -> str:
    return url.replace("127.0.0.1", "nowhere.invalid")


def test_before_the_first_run(
    outcome: Callable[..., Outcome],
    mysql: AnyServer,
    database: str,
    target_database: str,
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*", more=GIVE_UP)
    for command in sorted(AFTER_A_RUN):
        found = outcome(command, config, *options(command, database))
        assert found.status == 2, (command, found)
        assert "the target holds no checkpoint of this pipeline yet" in found.said, command
        assert f"`tailrace run {config}`" in found.said, command
    assert outcome("reset", config, "--yes").status == 0
    assert outcome("check", config).status == 0
    assert outcome("backfill", config).status == 2


@pytest.mark.parametrize("change", [other_user, other_host])
def test_a_server_that_cannot_be_reached(
    outcome: Callable[..., Outcome],
    mysql: AnyServer,
    database: str,
    target_database: str,
    tmp_path: Path,
    change: Callable[[str], str],
) -> None:
    tables = f"{database}.*"
    config = write_config(tmp_path, mysql.url, target_database, tables, more=GIVE_UP)
    assert outcome("run", config, *options("run", database)).status == 0

    write_config(tmp_path, change(mysql.url), target_database, tables, more=GIVE_UP)
    for command in sorted(OF_THE_SOURCE | {"status", "tail"}):
        found = outcome(command, config, *options(command, database))
        assert found.status == 1, (command, found)
    for command in ("tables", "commands", "dead-letters"):  # which do not ask the source
        assert outcome(command, config, *options(command, database)).status == 0

    write_config(tmp_path, mysql.url, change(target_database), tables, more=GIVE_UP)
    for command in sorted(EVERY):
        found = outcome(command, config, *options(command, database))
        assert found.status == 1, (command, found)
        remedy = "hint=" if command in ("run", "tail") else "what to do: "  # which have a log
        assert command == "check" or remedy in found.said, (command, found)


def test_names_and_places_that_the_pipeline_does_not_have(
    outcome: Callable[..., Outcome],
    mysql: AnyServer,
    database: str,
    target_database: str,
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*", more=GIVE_UP)
    with connect_mysql(mysql, database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE owners (id int PRIMARY KEY)")
    assert outcome("run", config, *options("run", database)).status == 0

    unknown = f"{database}.dogs"
    for command, words in {"backfill": (unknown,), "verify": ("--table", unknown)}.items():
        found = outcome(command, config, *words)
        assert found.status == 2, (command, found)
        assert f"`tailrace tables {config}` lists" in found.said
    for words in ((), (f"{database}.pets", "--all")):
        found = outcome("backfill", config, *words)
        assert found.status == 2
        assert f"`tailrace backfill {config} TABLE` reads" in found.said
        assert f"`tailrace backfill {config} --all` reads all" in found.said

    write_config(tmp_path, mysql.url, target_database, f"{database}.owners", more=GIVE_UP)
    assert outcome("run", config, *options("run", database)).status == 0
    for command, words in {
        "backfill": (f"{database}.pets",),
        "verify": ("--table", f"{database}.pets"),
    }.items():
        found = outcome(command, config, *words)
        assert found.status == 2, (command, found)
        assert "the configuration does not select" in found.said
        assert f'add "{database}.pets" to tables in [source]' in found.said
        assert "`tailrace tables" not in found.said

    write_config(tmp_path, mysql.url, target_database, f"{database}.none", more=GIVE_UP)
    for command in ("check", "run"):
        found = outcome(command, config, *options(command, database))
        assert found.status == 2, (command, found)


def test_another_engine(
    outcome: Callable[..., Outcome],
    mysql: AnyServer,
    database: str,
    target_database: str,
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*", more=GIVE_UP)
    with EngineProcess(config) as engine:
        engine.wait_live()
        found = outcome("reset", config, "--yes")
        assert (found.status, "an engine runs this pipeline" in found.said) == (2, True)
        assert outcome("run", config, *options("run", database)).status == 0
        assert engine.wait(30) == 4
        assert "a newer engine has taken over" in engine.tail()
