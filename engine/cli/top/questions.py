"""
What is asked before a command is given.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.commands import (
    BackfillTables,
    Letters,
    Pause,
    PipelineCommand,
    QuarantineTables,
    Reload,
    Resume,
    Stop,
)
from engine.ops.log import printable
from engine.ops.status import Status

__all__ = ["Ask", "Question", "possible", "question"]


class Question(NamedTuple):
    """A command, and what it does."""

    command: PipelineCommand
    what: str
    does: str


def question(name: str, table: str) -> Question | None:
    """The question of a key. ``table`` is the selected one; None if it needs one and has none."""
    match name:
        case "pause":
            return Question(
                Pause(),
                "Pause the pipeline?",
                "The engine commits, and applies nothing until it is resumed, also after a restart."
                " The source has to keep its log meanwhile.",
            )
        case "resume":
            return Question(Resume(), "Resume the pipeline?", "It goes on at its checkpoint.")
        case "reload":
            return Question(
                Reload(),
                "Reload the configuration?",
                "The engine reads the file that it was started with. A file with a mistake is"
                " refused.",
            )
        case "retry":
            return Question(
                Letters("retry", all=True),
                "Retry all dead letters?",
                "What the target refused is applied again, in order. What it still refuses stays.",
            )
        case "discard":
            return Question(
                Letters("discard", all=True),
                "Discard all dead letters?",
                "The target lacks for good those that are open when the engine executes the"
                " command.",
            )
        case "stop":
            return Question(
                Stop(),
                "Stop the engine?",
                "It commits whole transactions and ends. It cannot be started from here.",
            )
    return _of_table(name, table) if table else None


def _of_table(name: str, table: str) -> Question:
    if name == "backfill":
        return Question(
            BackfillTables((table,)),
            f"Backfill {table}?",
            "It is read again from the source, and replaces the table on the target when it is"
            " complete. The others go on.",
        )
    return Question(
        QuarantineTables((table,)),
        f"Quarantine {table}?",
        "Its changes are not applied any more, until it is backfilled. The others go on.",
    )


def possible(name: str, status: Status | None) -> bool:
    """Whether a command makes sense in a state."""
    if status is None:
        return False
    match name:
        case "pause":
            return status.state != "paused"
        case "resume":
            return status.state == "paused"
        case "retry" | "discard":
            return bool(status.dead_letters)
        case "backfill" | "quarantine":
            return bool(status.tables)
        case _:
            return True


class Ask(ModalScreen[bool]):
    """Asks, and returns whether the answer is yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,enter", "answer(False)", "No"),
    ]
    CSS = """
    Ask { align: center middle; }
    Ask > Vertical { width: 64; max-width: 90%; height: auto; padding: 1 2; border: round $primary;
                     background: $surface; }
    """

    def __init__(self, asked: Question) -> None:
        super().__init__()
        self._asked = asked

    def compose(self) -> ComposeResult:
        """The question, and the keys that answer it."""
        text = Text(printable(self._asked.what), "bold")
        text.append(f"\n\n{self._asked.does}\n\n", "not bold")
        text.append("y").append(" yes    ", "not bold").append("n").append(" no", "not bold")
        yield Vertical(Static(text))

    def action_answer(self, yes: bool) -> None:
        """Close with an answer."""
        self.dismiss(yes)
