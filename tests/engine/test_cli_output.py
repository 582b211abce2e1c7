"""
The command line on odd terminals: closed and full streams, other encodings, names that a terminal
would act on, and files that cannot be written.
"""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from engine.cli.main import make_parser
from engine.cli.schema import SchemaReport, _hidden, schema_lines
from engine.cli.tables import findings_table, verify_table
from engine.contract import Finding
from engine.ops.log import TextFormatter, printable
from engine.structure import Hidden
from engine.toolkit.schema_diff import Difference as SchemaDifference
from engine.verify.report import TableReport, VerifyReport
from tests.support.recorded_logs import FIXTURES

TAILRACE = (sys.executable, "-P", "-m", "engine.cli")
SECRET = "open-sesame-4711"
LOGS = f"mysql-binlog:{FIXTURES / 'mysql-9.7'}"
#: A name that would forge a line of the log and colour the terminal.
EVIL = "pets\nerror: all is lost\x1b[31m\u202e"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A pipeline from recorded log files to a file."""
    path = tmp_path / "p.toml"
    text = (
        f'[source]\nurl = "{LOGS}"\ntables = ["*.*"]\n[sink]\nurl = "jsonl:{tmp_path}/out.jsonl"\n'
    )
    path.write_text(text)
    return path


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in which ``tailrace`` is the command. Fails if it prints a traceback."""
    command = " ".join(TAILRACE)
    done = subprocess.run(
        ["bash", "-c", line.replace("tailrace", command)],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | environment,
    )
    assert "Traceback" not in done.stderr
    assert "bug in Tailrace" not in done.stderr
    return done


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_full_disk_behind_standard_output(config: Path, option: str) -> None:
    done = shell(f"tailrace check {config} {option} >/dev/full")
    assert (done.returncode, "cannot write to standard output" in done.stderr) == (1, True)


def test_records_on_a_full_disk(config: Path) -> None:
    done = shell(f"tailrace tail {config} >/dev/full")
    assert (done.returncode, "cannot write to standard output" in done.stderr) == (1, True)


def test_a_reader_that_ends_early(config: Path) -> None:
    done = shell(f"tailrace tail {config} | head -c 10")
    assert (len(done.stdout), done.stderr) == (10, "")


def test_a_terminal_without_unicode(config: Path) -> None:
    done = shell(f"tailrace check {config}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(config: Path, closed: str) -> None:
    """Sockets and files must not get the number of a standard stream."""
    done = shell(f"tailrace run {config} {closed}")
    assert done.returncode in (0, 3)
    assert config.with_name("out.jsonl").stat().st_size > 0


# -- init ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["missing/p.toml", "file/p.toml", "/dev/null/p.toml"])
def test_init_into_a_folder_that_cannot_be_written(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("")
    done = shell(f"tailrace init {LOGS} jsonl:- -o {tmp_path / output}")
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "choose another --output" in done.stderr


def test_init_keeps_secrets_of_the_query_out_of_the_file(tmp_path: Path) -> None:
    output = tmp_path / "p.toml"
    target = f"postgresql://u@h/d?password={SECRET}&sslmode=require&sslpassword={SECRET}"
    done = shell(f"tailrace init {LOGS} '{target}' -o {output}")
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    assert SECRET not in text + done.stdout + done.stderr
    assert "?password=${TARGET_PASSWORD}&sslmode=require&sslpassword=${TARGET_SSLPASSWORD}" in text
    assert {"TARGET_PASSWORD", "TARGET_SSLPASSWORD"} <= set(done.stdout.split())
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_init_asks_for_passwords(tmp_path: Path) -> None:
    output = tmp_path / "p.toml"
    words = (*TAILRACE, "init", LOGS, "postgresql://u@h/d", "-o", str(output), "--ask-passwords")
    process, terminal = pty.fork()
    if not process:  # the child, on a terminal of its own
        os.execv(sys.executable, words)
    shown = b""
    while b"password of u" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, SECRET.encode() + b"\n")
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "u:${TARGET_PASSWORD}@h" in output.read_text()
    assert SECRET not in output.read_text()


# -- names of the source ---------------------------------------------------------------------------


def test_names_cannot_forge_lines_or_control_the_terminal() -> None:
    record = logging.LogRecord("tailrace", logging.INFO, "", 1, f"the table {EVIL}", (), None)
    record.table = EVIL
    line = TextFormatter().format(record)
    assert printable(line) == line
    assert r"pets\nerror: all is lost\x1b[31m\u202e" in line

    report = TableReport(EVIL, 1, 0, 0, 0, 0.1, equal=False, inconclusive=EVIL)
    for table in (
        findings_table([Finding("error", EVIL, EVIL, EVIL)]),
        verify_table(VerifyReport(False, 0.1, (report,))),
    ):
        screen = io.StringIO()
        Console(file=screen, width=300).print(table)
        shown = screen.getvalue()
        assert not re.search("\x1b|\u202e|^error: all", shown, re.MULTILINE)


def test_children_do_not_import_from_the_current_folder() -> None:
    root = Path(__file__).parents[2]
    for folder in ("engine", "sources", "sinks", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            for command in re.findall(r'.{0,60}"-m",', path.read_text(), re.DOTALL):
                assert '"-P"' in command, path


def test_missing_foreign_keys_alone_name_the_option_that_creates_them() -> None:
    """`tailrace schema apply` alone leaves foreign keys as they are."""
    lacks = [SchemaDifference("foreign key", "shop.item", "fk", "missing", statements=("ALTER …",))]
    *_, count, way = schema_lines(SchemaReport(False, 1, lacks), "my shop.toml")
    assert count == "1 difference in 1 table"
    assert way.endswith("`tailrace schema apply 'my shop.toml' --foreign-keys`")


def test_programs_that_the_user_may_not_see_are_no_equality() -> None:
    """GIVEN hidden triggers and events THEN both are named, and only the triggers may be missing on
    the target, which has no events."""
    trigger, event = (
        _hidden(Hidden(kind, "shop", f"GRANT {kind.upper()} ON `shop`.*"))
        for kind in ("trigger", "event")
    )
    assert (trigger.note, event.note) == (False, True)
    lines = list(schema_lines(SchemaReport(False, 1, [trigger, event]), "shop.toml"))
    assert lines[:2] == ["shop", "  unknown    trigger"]
    assert lines[2].endswith("may not see them: GRANT TRIGGER ON `shop`.* TO <user>")
    assert lines[3] == "  note       event"
    assert lines[-1] == "1 difference in 1 table"


def test_every_command_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """argparse formats a usage line by %, so a name of an option's value cannot have one."""
    names = re.findall(r"^    ([a-z][a-z-]+)", make_parser().format_help(), re.MULTILINE)
    assert {"verify", "dead-letters", "cutover"} <= set(names)
    for name in names:
        with pytest.raises(SystemExit) as ended:
            make_parser().parse_args([name, "--help"])
        assert ended.value.code == 0
        assert f"usage: tailrace {name}" in capsys.readouterr().out
