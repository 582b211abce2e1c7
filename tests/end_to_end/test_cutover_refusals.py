"""
What the check of a cutover refuses: each refusal names what ends it, and that ends it.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from engine.cli.main import main
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

MORE = """
[errors]
on_error = "dead_letter"
[cutover]
max_lag_seconds = 2.0
"""
SWITCH = 'switch = { command = ["true"] }\n'
COMMAND = re.compile(r"`tailrace ([^`]+)`")
#: What a command asks for, or prints for people, in a test.
ANSWERS = {"apply": ["--yes"], "--repair": ["--yes"]}
TABLES = (
    "CREATE TABLE item (id INT PRIMARY KEY AUTO_INCREMENT, v INT)",
    "CREATE TABLE part (id INT PRIMARY KEY, item INT, FOREIGN KEY (item) REFERENCES item (id))",
    "INSERT INTO item VALUES (1, 1)",
    "INSERT INTO part VALUES (1, 1)",
)


class Pipeline:
    """Two tables, an engine, and what the check of a cutover says."""

    def __init__(
        self, server: AnyServer, database: str, target: str, folder: Path, output: Callable[[], str]
    ) -> None:
        self.writer = Writer(server, database)
        self.writer(*TABLES)
        self.database, self.target = database, target
        self.config = write_config(folder, server.url, target, f"{database}.*", more=MORE)
        self.engine: EngineProcess | None = None
        self._output = output

    def run(self, *words: str) -> tuple[int, str]:
        """The exit status of a command line, and what it prints."""
        self._output()
        status = main(list(words))
        return status, self._output()

    def start(self) -> None:
        """``tailrace run``, until all tables are live."""
        self.engine = EngineProcess(self.config)
        self.engine.wait_live()

    def stop(self) -> None:
        """End the engine."""
        assert self.engine is not None
        self.engine.terminate()

    def on_target(self, statement: str) -> None:
        """Execute a statement on the target. ITEM stands for the table."""
        with psycopg.connect(self.target, autocommit=True) as there:
            there.execute(statement.replace("ITEM", f'"{self.database}".item').encode())

    def refuses(self, reason: str) -> list[str]:
        """The commands that the check names, which refuses for this reason alone."""
        status, said = self.run("cutover", str(self.config), "--dry-run")
        assert status == 1, said
        reasons = [it for it in said.splitlines() if it.startswith("refused: ")]
        assert len(reasons) == 1, reasons
        assert reason in reasons[0]
        return COMMAND.findall(said.partition("refused: ")[2])

    def follow(self, commands: list[str]) -> None:
        """Type the commands."""
        assert commands
        for command in commands:
            words = shlex.split(command)
            assert words[0] != "run", "the test starts an engine by itself"
            for word in ANSWERS.keys() & set(words):
                words += ANSWERS[word]
            status, said = self.run(*words)
            assert status in (0, 3), (command, said)

    def is_ready(self) -> bool:
        """Whether a cutover can begin."""
        return self.run("cutover", str(self.config), "--dry-run")[0] == 0


@pytest.fixture
def pipeline(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Pipeline]:
    def output() -> str:
        found = capsys.readouterr()
        return found.out + found.err

    it = Pipeline(mysql, fresh_mysql_database(mysql), target_database, tmp_path, output)
    yield it
    it.writer.connection.close()
    if it.engine is not None and it.engine.process.poll() is None:
        it.engine.kill()


def hook(it: Pipeline) -> None:
    assert it.refuses("nothing is configured that switches the applications") == []
    before = it.config.read_text()
    it.config.write_text(before + SWITCH.replace("true", "./nothing"))
    assert it.refuses("the hook switch cannot be executed: ./nothing") == []
    it.config.write_text(before + SWITCH)


def schema(it: Pipeline) -> None:
    it.on_target("ALTER TABLE ITEM ALTER id DROP IDENTITY")
    it.follow(it.refuses("schema not complete: missing identity id"))


def paused(it: Pipeline) -> None:
    assert it.run("pause", str(it.config))[0] == 0
    it.follow(it.refuses("the pipeline is paused"))


def quarantined(it: Pipeline) -> None:
    table = f"{it.database}.part"
    assert it.run("quarantine", str(it.config), table)[0] == 0
    (command,) = it.refuses(f"quarantined: {table}")
    _, said = it.run(*shlex.split(command))
    it.follow([one for one in COMMAND.findall(said) if one.startswith("backfill")])
    wait_until(it.is_ready, what="live tables")
    _, said = it.run("cutover", str(it.config), "--dry-run")
    assert f"since they were found equal: {table}: `tailrace verify" in said
    assert it.run("verify", str(it.config))[0] == 0
    _, said = it.run("cutover", str(it.config), "--dry-run")
    assert "since they were found equal" not in said


def dead_letters(it: Pipeline) -> None:
    it.on_target("ALTER TABLE ITEM ADD CONSTRAINT small CHECK (v < 100)")
    it.writer("INSERT INTO item VALUES (2, 500)")
    wait_until(lambda: not it.is_ready(), what="a refusal")
    it.follow(it.refuses(f"1 open dead letters of {it.database}.item"))
    it.on_target("ALTER TABLE ITEM DROP CONSTRAINT small")
    assert it.run("dead-letters", str(it.config), "retry")[0] == 0


def different(it: Pipeline) -> None:
    it.on_target("UPDATE ITEM SET v = 7 WHERE id = 1")
    assert it.run("verify", str(it.config))[0] == 3
    it.follow(it.refuses(f"different from the source: {it.database}.item"))
    assert it.run("verify", str(it.config))[0] == 0


def engine_away(it: Pipeline) -> None:
    it.stop()
    (command,) = it.refuses("no engine is connected to the target")
    assert command == f"run {it.config}"
    it.start()


def engine_behind(it: Pipeline) -> None:
    """An engine that does not go on is connected still."""
    assert it.engine is not None
    it.engine.process.send_signal(signal.SIGSTOP)
    it.writer("INSERT INTO item VALUES (3, 3)")
    status, said = it.run("cutover", str(it.config), "--dry-run")
    it.engine.process.send_signal(signal.SIGCONT)
    assert status == 1
    assert "the target has not caught up within 2 s" in said
    it.follow(COMMAND.findall(said)[-1:])


def other_writer(it: Pipeline) -> None:
    with psycopg.connect(it.target, application_name="etl") as other:
        other.execute(f'UPDATE "{it.database}".item SET v = v'.encode())
        assert it.refuses("another session writes to the target's tables: postgres, etl") == []
        other.rollback()
        assert it.is_ready()


def short_sequence(it: Pipeline) -> None:
    name = f'"{it.database}".item_id_seq'
    it.on_target(f"ALTER SEQUENCE {name} MAXVALUE 900")
    assert it.refuses("ends before the maximum of id and the margin") == []
    it.on_target(f"ALTER SEQUENCE {name} AS bigint MAXVALUE 2147483647")


def prepared(it: Pipeline) -> None:
    with xa(it):
        assert it.refuses("1 transactions are prepared (XA)") == []


@contextmanager
def xa(it: Pipeline) -> Iterator[None]:
    it.writer("XA START 'x'", "INSERT INTO item VALUES (4, 4)", "XA END 'x'", "XA PREPARE 'x'")
    try:
        yield
    finally:
        it.writer("XA ROLLBACK 'x'")


def edited(it: Pipeline) -> None:
    """A mapping that was edited, with an engine that was not started again."""
    before = it.config.read_text()
    it.config.write_text(f'{before}\n[mapping."{it.database}.part"]\nwhere = "id > 1"\n')
    (command,) = it.refuses(f"{it.database}.part: ")
    assert command == f"check {it.config}"
    assert f"{it.database}.part" in it.run(*shlex.split(command))[1]
    it.config.write_text(before)


CAUSES = (
    *(hook, schema, paused, quarantined, dead_letters, different, engine_away, engine_behind),
    *(other_writer, short_sequence, prepared, edited),
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_refusal_names_what_ends_it(pipeline: Pipeline) -> None:
    """GIVEN a pipeline for which one thing does not hold WHEN what the refusal names is done THEN
    the cutover can begin."""
    it = pipeline
    status, said = it.run("cutover", str(it.config), "--dry-run")
    assert (status, COMMAND.findall(said)) == (1, [f"run {it.config}"])
    it.start()
    status, said = it.run("cutover", str(it.config), "--dry-run")
    assert status == 1
    named = COMMAND.findall(said)
    assert [it.split()[0] for it in named] == ["verify", "schema", "schema"]
    it.follow(named)
    for cause in CAUSES:
        cause(it)
        assert it.is_ready(), cause.__name__
