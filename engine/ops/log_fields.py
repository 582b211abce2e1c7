"""
The fields of log lines: the name and the meaning of each. ``FIELDS`` is the only place that lists
them. docs/logs.md has the same list, and a test compares both with the code.
"""

from __future__ import annotations

from typing import Final

from engine.errors import TailraceError
from engine.remedies import rendered

__all__ = ["FIELDS", "error_fields"]

#: The order is that of the page.
FIELDS: Final = {
    "pipeline": "The name of the pipeline. Every line of a run has it.",
    "table": "The table of the source, as `schema.table`.",
    "column": "The column.",
    "position": "The place in the source's log.",
    "state": "The state that the pipeline or the table has now.",
    "before": "The state of the pipeline before.",
    "error": "The message of an error.",
    "error_class": "The class of the error, as in the metric `tailrace_errors_total`.",
    "reason": "Why a table is backfilled again, quarantined or treated in another way, or waits.",
    "statement": "The statement in the log that is concerned, up to its first literal.",
    "hint": "What to do. Command lines are complete.",
    "places": "The places of `tailrace skip` at which the log has no event.",
    "delay_seconds": "Seconds until the next attempt.",
    "command_id": "The number of a command in `tailrace.command`.",
    "command": "The command, as JSON.",
    "by": "Who gave the command.",
    "outcome": "What became of the command.",
    "code": "The code of a finding, which docs/findings.md describes.",
    "subject": "What a finding is about.",
    "policy": "The value policy that has changed values.",
    "count": "A number of tables, of dead letters, or of rows that differ.",
    "rows": "Rows of changes that were applied, or that were left out.",
    "backfilled_rows": "Rows that were backfilled.",
    "lag_seconds": "How far the target is behind, in seconds.",
    "lag_bytes": "How far the target is behind, in bytes of the log.",
    "reconnects": "Lost connections since the engine's start.",
    "receiver": "The name of a receiver in `[notify]`.",
    "notification": "The type of a notification.",
    "url": "The address on which the API listens.",
    "version": "The version of Tailrace.",
    "codecs": "Whether the codecs are compiled.",
    "exit_status": "The exit status of an engine; negative: the signal that has killed it.",
    "from_layout": "The layout of the stored state before an upgrade.",
    "to_layout": "The layout of the stored state after an upgrade.",
    "tables": "The number of tables in the stored state.",
    "left_out": "The number of like lines that were left out before this one.",
}


def error_fields(error: TailraceError, config: str = "") -> dict[str, str]:
    """The fields of a line about an error. ``config`` is for the command lines in its hint."""
    fields = {
        "error": error.message,
        "error_class": type(error).__name__,
        "table": error.table or "",
        "position": error.position or "",
        "hint": rendered(
            error.hint, config=config, table=error.table or "", position=error.position or ""
        ),
    }
    return {name: value for name, value in fields.items() if value}
