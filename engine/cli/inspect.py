"""
The commands that only look: ``check``, ``status`` and ``verify``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import msgspec

from engine.cli.command import Command
from engine.cli.wiring import load_settings, make_sink, make_source
from engine.contract import Finding, Sink, Source, State
from engine.errors import ConfigError, TailraceError
from engine.schema import Table
from engine.settings.loader import Settings
from engine.verify import comparison
from engine.verify.report import VerifyReport

__all__ = ["CHECK", "STATUS", "VERIFY"]

#: How often the target is asked how far it is.
POLL_SECONDS = 0.1


def check(options: argparse.Namespace) -> int:
    """Look at both sides and say what is missing, and what to type for it. Changes nothing.

    Exit status 0: ready (perhaps with warnings); 1: `tailrace run` would fail.
    """
    settings = load_settings(options.config)
    findings = asyncio.run(_check(settings))
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(findings) + b"\n")
    else:
        from rich.console import Console

        from engine.ops.terminal import findings_table

        Console().print(findings_table(findings))
    return int(any(finding.level == "error" for finding in findings))


def _add_check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print findings for machines")


CHECK = Command("check", "is everything ready? changes nothing", check, _add_check_options)


async def _check(settings: Settings) -> list[Finding]:
    tables: list[Table] = []
    findings: list[Finding] = []
    with closing(make_source(settings)) as source:
        try:
            findings += await asyncio.to_thread(source.check)
            tables = await asyncio.to_thread(source.catalog)
        except TailraceError as error:
            findings.append(_as_finding("source", error))
    try:
        findings += await make_sink(settings).check(tables)
    except TailraceError as error:
        findings.append(_as_finding("target", error))
    return findings


def _as_finding(subject: str, error: TailraceError) -> Finding:
    return Finding("error", subject, str(error), error.hint)


def status(options: argparse.Namespace) -> int:
    """Show how far the pipeline is: its position, its lag, and the state of each table.

    Reads the checkpoint in the target, and asks the source for the end of its log. Exit status 1 if
    the pipeline has never run.
    """
    settings = load_settings(options.config)
    report = asyncio.run(_status(settings))
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    else:
        from rich.console import Console

        from engine.ops.terminal import status_table

        Console().print(status_table(report))
    return 0 if report["position"] is not None else 1


def _add_status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it for machines")


STATUS = Command("status", "position, lag and the state of each table", status, _add_status_options)


async def _status(settings: Settings) -> dict[str, Any]:
    state = await make_sink(settings).state()
    checkpoint = state.checkpoint if state is not None else None
    report: dict[str, Any] = {
        "pipeline": settings.pipeline.name,
        "position": None,
        "epoch": None if state is None else state.epoch,
        "lag_seconds": None,
        "lag_bytes": None,
        "tables": [],
    }
    if checkpoint is None:
        return report
    with closing(make_source(settings)) as source:
        end = await asyncio.to_thread(source.position)
        current = source.reached(checkpoint.position, end)
        lag_bytes = await asyncio.to_thread(source.backlog, checkpoint.position)
    behind = time.time() - checkpoint.committed_at if checkpoint.committed_at else None
    return report | {
        "position": checkpoint.position,
        "lag_seconds": 0.0 if current else behind,
        "lag_bytes": 0 if current else lag_bytes,
        "tables": [
            {"table": str(id), "state": t.state, "rows": t.rows, "estimate": t.estimate}
            for id, t in sorted(checkpoint.snapshot.items())
        ],
    }


def verify(options: argparse.Namespace) -> int:
    """Compare both sides row by row, chunk by chunk, while changes flow.

    Reads both databases through their ordinary clients. Rows that differ are read again after the
    pipeline has passed the place in the log at which they were read, so a running pipeline is no
    difference. Exit status 0: equal; 3: they differ, or a table could not be compared.
    """
    settings = load_settings(options.config)
    report = asyncio.run(_verify(settings, options))
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    else:
        from rich.console import Console

        from engine.ops.terminal import verify_table

        Console().print(verify_table(report))
    return 0 if report.equal else 3


def _add_verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the whole result for machines")
    parser.add_argument(
        "--table", action="append", default=[], metavar="SCHEMA.TABLE", help="only this; repeatable"
    )
    parser.add_argument(
        "--deadline-seconds",
        type=float,
        default=60.0,
        metavar="N",
        help="how long rows that differ may take to settle (default 60)",
    )


VERIFY = Command(
    "verify", "compare both sides row by row while changes flow", verify, _add_verify_options
)


async def _verify(settings: Settings, options: argparse.Namespace) -> VerifyReport:
    sink = make_sink(settings)
    state = await sink.state()
    if state is None or state.checkpoint is None:
        raise ConfigError(
            "the target holds no checkpoint of this pipeline yet", hint="run the pipeline first"
        )
    tables = _chosen(state, options.table)
    with closing(make_source(settings)) as source:

        async def passed(position: str, deadline: float) -> bool:
            return await _passed(source, sink, position, deadline)

        with closing(source.row_reader()) as left, closing(sink.row_reader()) as right:
            return await comparison.verify(
                tables,
                left,
                right,
                source_position=source.position,
                passed=passed,
                deadline_seconds=options.deadline_seconds,
            )


async def _passed(source: Source, sink: Sink, position: str, deadline: float) -> bool:
    """Wait until the target holds everything up to ``position``; false at the deadline."""
    while time.monotonic() < deadline:
        state = await sink.state()
        checkpoint = state.checkpoint if state is not None else None
        if checkpoint is not None and source.reached(checkpoint.position, position):
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


def _chosen(state: State, names: Sequence[str]) -> Sequence[Table]:
    known = {str(table.id): table for table in state.tables}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"the pipeline does not follow {', '.join(unknown)}",
            hint=f"it follows {', '.join(sorted(known))}",
        )
    return [known[name] for name in names] if names else state.tables
