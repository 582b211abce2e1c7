"""
The log: the list of fields, the limit of repeats, exceptions without values, changes of state.
"""

from __future__ import annotations

import ast
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.checkpoint import Cause, TableProgress
from engine.errors import ApplyError
from engine.ops import log
from engine.ops.log_fields import FIELDS
from engine.ops.repeats import INTERVAL_SECONDS, PROGRESS, RepeatLimit
from engine.pipeline.events import MOST_LINES, Events
from engine.schema import TableId
from tests.support.logs_page import PAGE, page

ROOT = Path(__file__).parents[2]
#: Variables and functions that hold the fields of a line.
HOLDERS = ("extra", "fields", "counts", "more")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """The JSON lines on standard error."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


# -- fields ----------------------------------------------------------------------------------------


def _keys(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Dict):
            for key in inner.keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value


def _logged_fields(path: Path) -> Iterator[str]:
    """The keys of the dictionaries that a module passes as ``extra``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        for keyword in call.keywords:
            if keyword.arg == "extra" and not isinstance(keyword.value, ast.Constant):
                yield from _keys(keyword.value)
    functions = [it for it in ast.walk(tree) if isinstance(it, ast.FunctionDef)]
    logging_ones = [it for it in functions if "extra=" in ast.unparse(it)]
    for function in logging_ones:
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(ast.unparse(it).split("[")[0] in HOLDERS for it in targets):
                    yield from _keys(node.value)
                    for target in targets:
                        if isinstance(target, ast.Subscript) and isinstance(
                            target.slice, ast.Constant
                        ):
                            yield str(target.slice.value)


def test_every_field_of_the_log_is_listed() -> None:
    modules = [it for part in ("engine", "sources", "sinks") for it in (ROOT / part).rglob("*.py")]
    logged = {name: path for path in modules for name in _logged_fields(path)}
    assert len(logged) > 20
    assert not {name: path for name, path in logged.items() if name not in FIELDS}


def test_the_page_has_the_list_of_fields() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "python -m tests.support.logs_page"


# -- repeats ---------------------------------------------------------------------------------------


def record(text: str, name: str = "tailrace.pipeline", **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": name, "msg": text, "levelno": logging.WARNING})
    vars(made).update(extra)
    return made


def test_the_first_and_the_last_of_a_series_are_written() -> None:
    """GIVEN a line that repeats each second WHEN an hour passes THEN one line per interval is
    written, with the number of those left out, and the sum of all is right.
    """
    clock = SimpleNamespace(now=0.0)
    limit = RepeatLimit(clock=lambda: clock.now)
    written: list[logging.LogRecord] = []
    made = 3601
    for clock.now in range(made):
        written += limit.take(record("lost", table="a", second=clock.now))
        if clock.now % 7 == 0:
            written += limit.due()
    written += limit.rest()
    assert limit.rest() == []
    seconds = [vars(it)["second"] for it in written]
    assert seconds[0] == 0
    assert seconds[-1] == made - 1
    assert seconds == sorted(seconds)
    assert len(written) <= 3600 / INTERVAL_SECONDS + 2
    assert made == len(written) + sum(vars(it).get("left_out", 0) for it in written)


def test_other_series_are_not_held_back() -> None:
    clock = SimpleNamespace(now=0.0)
    limit = RepeatLimit(clock=lambda: clock.now)
    different = (
        record("lost", table="a"),
        record("lost", table="b"),
        record("lost", table="a", error_class="SinkLost"),
        record("lost", error_class="SinkLost", error="no connection to 127.0.0.1:5432"),
        record("lost", error_class="SinkLost", error="DiskFull"),
        record("found", table="a"),
        record("executed", command_id=1),
        record("executed", command_id=2),
    )
    for each in different:
        assert limit.take(each) == [each]
    for _ in range(3):
        regular = record("progress", PROGRESS)
        assert limit.take(regular) == [regular]
    assert limit.take(record("lost", table="b")) == []
    again = record("lost", error_class="SinkLost", error="no connection to 127.0.0.1:5433")
    assert limit.take(again) == []
    clock.now = INTERVAL_SECONDS
    assert ["left_out" in vars(held) for held in limit.due()] == [False, False]
    clock.now *= 3
    assert limit.due() == []  # a series that has ended starts anew
    assert len(limit.take(record("lost", table="b"))) == 1


def test_held_lines_are_written_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("json", "info", "shop")
    for number in range(5):
        logging.getLogger("tailrace.pipeline").warning("lost", extra={"rows": number})
    log.write_held()
    first, last = lines(capsys)
    assert (first["rows"], last["rows"], last["left_out"]) == (0, 4, 3)
    assert first["pipeline"] == last["pipeline"] == "shop"


# -- exceptions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["json", "text"])
def test_exceptions_are_logged_without_values(
    format: log.LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN exceptions with a value in their messages WHEN they are logged by the engine, by a
    library, or end a thread THEN the log has their classes and stacks, and not the value.
    """
    log.configure(format, "debug")

    def fail(value: str = "PLANTED") -> None:
        try:
            raise KeyError(value)
        except KeyError as error:
            try:
                raise ApplyError("refused", table="shop.item") from error
            except ApplyError:
                raise ValueError(f"bad {value}") from None

    try:
        fail()
    except ValueError:
        logging.getLogger("tailrace").exception("a bug")
        logging.getLogger("asyncio").exception("not retrieved: <Task %r>", "PLANTED")
    logging.getLogger("psycopg").warning(
        "error ignored in rollback on %s: %s", "PLANTED", "PLANTED"
    )
    logging.getLogger("psycopg").warning("error ignored terminating %r: %s", "PIPELINE", "x")
    logging.getLogger("sqlglot").warning("'PLANTED' contains unsupported syntax")
    logging.getLogger("sqlglot").info("PLANTED")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    text = capsys.readouterr().err
    assert "PLANTED" not in text
    assert "error ignored terminating" not in text
    assert text.count("builtins.ValueError") == 3
    for part in ("a bug", "not retrieved:", "error ignored in rollback on", "a thread has failed"):
        assert part in text


def test_the_causes_of_an_exception_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("text", "debug")
    try:
        try:
            raise KeyError("PLANTED")
        except KeyError as error:
            raise ApplyError("refused", table="shop.item") from error
    except ApplyError:
        logging.getLogger("tailrace").exception("a bug")
    text = capsys.readouterr().err
    assert "builtins.KeyError\n" in text
    assert "ApplyError: refused [table shop.item]" in text


# -- changes of state ------------------------------------------------------------------------------


def test_each_change_of_state_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events = Events("shop", "shop.toml")
    for state in ("connecting", "connecting", "streaming", "streaming", "connecting"):
        events.state(state, "p1")  # type: ignore[arg-type]
    found = [(vars(it)["state"], vars(it).get("before")) for it in caplog.records]
    assert found == [
        ("connecting", None),
        ("streaming", "connecting"),
        ("connecting", "streaming"),
    ]
    caplog.clear()
    one, two = TableId("shop", "one"), TableId("shop", "two")
    cause = Cause("refused", "`tailrace backfill CONFIG TABLE`", "p2")
    events.left(one, "quarantined", cause, "ApplyError")
    progress = {
        one: TableProgress("quarantined", cause=cause),
        two: TableProgress("quarantined", cause=cause),
    }
    events.tables(progress, progress)
    first, second = map(vars, caplog.records)
    assert (first["table"], second["table"]) == ("shop.one", "shop.two")
    assert (first["error_class"], first["position"]) == ("ApplyError", "p2")
    assert second["hint"] == "`tailrace backfill shop.toml shop.two`"


def test_many_tables_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events = Events("shop")
    progress = {TableId("shop", f"t{n}"): TableProgress("live") for n in range(MOST_LINES + 1)}
    events.tables(progress, progress)
    assert [vars(it)["count"] for it in caplog.records] == [MOST_LINES + 1]
    few = dict(list(progress.items())[:MOST_LINES])
    events.tables(few, few)
    assert len(caplog.records) == 1 + MOST_LINES
