"""
The screens of ``tailrace top``: all pipelines, and one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from engine.cli.top import shown
from engine.cli.top.grid import ORDERS, TableGrid, heading
from engine.cli.top.questions import Ask, possible, question
from engine.cli.top.watched import Watched
from engine.ops.log import printable
from engine.ops.status import Status

__all__ = ["TopApp"]


#: A screen with so many lines has room for several backfills and errors.
TALL = 36


def now() -> datetime:
    """The local time."""
    return datetime.now().astimezone()


class PipelineScreen(Screen[None]):
    """One pipeline."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search"),
        Binding("s", "sort", "Sort"),
        Binding("p", "give('pause')", "Pause"),
        Binding("r", "give('resume')", "Resume"),
        Binding("b", "give('backfill')", "Backfill"),
        Binding("q", "give('quarantine')", "Quarantine"),
        Binding("t", "give('retry')", "Retry"),
        Binding("d", "give('discard')", "Discard"),
        Binding("l", "give('reload')", "Reload"),
        Binding("x", "give('stop')", "Stop"),
        Binding("escape", "back", "Back", show=False),
    ]
    CSS = """
    PipelineScreen > Static { height: auto; padding: 0 1; }
    #title { background: $primary; color: $text; text-style: bold; }
    #head { max-height: 4; }
    #figures, #detail, #outcome, #errors { max-height: 2; }
    #stages { height: 1; }
    #sparks { height: 2; }
    #search { display: none; height: 1; border: none; padding: 0 1; }
    #search.open { display: block; }
    #heading { text-style: underline; }
    #grid { height: 1fr; min-height: 3; margin: 0 1; overflow-x: hidden; }
    .empty { display: none; }
    """

    def __init__(self, watched: Watched) -> None:
        super().__init__()
        self.watched = watched

    def compose(self) -> ComposeResult:
        """From the state down to the last outcome."""
        for name in ("title", "head", "figures", "sparks", "stages", "backfills"):
            yield Static(id=name)
        yield Input(placeholder="search tables", id="search")
        yield Static(id="heading")
        yield TableGrid(id="grid")
        for name in ("detail", "errors", "outcome"):
            yield Static(id=name)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Ask for the history, too."""
        self.watched.opened = True
        self.query_one(TableGrid).focus()
        self.show()

    def on_unmount(self) -> None:
        """Ask for the history no more."""
        self.watched.opened = False

    def on_resize(self) -> None:
        """The bars and columns depend on the width."""
        self.show()

    def show(self) -> None:
        """Show what is known now."""
        if self.query_one_optional("#title") is None:
            return  # the screen is being removed
        watched, at = self.watched, now()
        status = watched.status or Status()
        title = f"{printable(watched.name)}   {printable(watched.address.url)}"
        self._put("title", Text(title, no_wrap=True, overflow="ellipsis"))
        self._put("head", shown.head(watched, at))
        self._put("figures", shown.figures(status) if watched.status else Text())
        known = watched.history is not None
        self._put(
            "sparks", shown.spark_lines(watched.history, self.size.width - 2) if known else Text()
        )
        self._put("stages", shown.stages(status) if status.stages else Text())
        room = 1 if self.size.height < TALL else 3
        self._put("backfills", shown.backfill_lines(status, room))
        self._put("errors", shown.error_lines(status, at, room))
        self._put("outcome", Text(printable(watched.outcome), "bold"))
        self.query_one(TableGrid).show(status.tables)
        self.refresh_bindings()

    def _put(self, name: str, text: Text) -> None:
        widget = self.query_one(f"#{name}", Static)
        widget.update(text)
        widget.set_class(not text, "empty")

    def on_table_grid_selected(self) -> None:
        """Show why the selected table is in its state."""
        grid = self.query_one(TableGrid)
        line = heading(grid.order, grid.line_width)
        self._put("heading", Text(line, no_wrap=True))
        text, table = Text(), grid.selected
        if table is not None and table.reason:
            text.append(f"{printable(table.table)}: {printable(table.reason)}")
            if table.remedy:
                text.append(f" → {printable(table.remedy)}", "bold")
        elif grid.pattern:
            text.append(f"{len(grid.shown):,} tables match", "dim")
        self._put("detail", text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the commands that make sense now."""
        if action == "give":
            watched = self.watched
            status = None if watched.problem is not None else watched.status
            return possible(str(parameters[0]), status)
        return True

    def action_give(self, name: str) -> None:
        """Ask, and give a command to the engine."""
        table = self.query_one(TableGrid).selected
        asked = question(name, "" if table is None else table.table)
        if asked is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                work = self.watched.give(asked.command, self.changed)
                self.app.run_worker(work, group="commands")

        self.app.push_screen(Ask(asked), answered)

    def changed(self) -> None:
        """Show what is known now, if this screen is still there."""
        if self.is_attached:
            self.show()

    def action_sort(self) -> None:
        """Sort the tables by the next order."""
        grid = self.query_one(TableGrid)
        grid.order = ORDERS[(ORDERS.index(grid.order) + 1) % len(ORDERS)]
        grid.rearrange()

    def action_search(self) -> None:
        """Type a part of the names of tables."""
        self.query_one("#search", Input).add_class("open").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search while somebody types."""
        grid = self.query_one(TableGrid)
        grid.pattern = event.value
        grid.rearrange()

    def on_input_submitted(self) -> None:
        """Go to the tables that match."""
        self.query_one(TableGrid).focus()

    def action_back(self) -> None:
        """End the search, or go back to all pipelines."""
        search = self.query_one("#search", Input)
        if search.has_class("open"):
            search.value = ""
            search.remove_class("open")
            self.query_one(TableGrid).focus()
        elif len(self.app.screen_stack) > 2:  # below are the overview and Textual's own screen
            self.dismiss()


class OverviewScreen(Screen[None]):
    """All pipelines."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "Open", show=True)]
    CSS = "OverviewScreen > DataTable { height: 1fr; }"
    COLUMNS = ("pipeline", "lag", "rows/s", "quarantined", "letters", "state")

    def __init__(self, pipelines: Sequence[Watched]) -> None:
        super().__init__()
        self._pipelines = pipelines

    def compose(self) -> ComposeResult:
        """A line for each pipeline."""
        yield DataTable[Text](cursor_type="row")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Make the lines, which stay."""
        table = self.query_one(DataTable)
        for name in self.COLUMNS:
            table.add_column(name, key=name)
        for place, watched in enumerate(self._pipelines):
            table.add_row(*shown.summary(watched, now()), key=str(place))

    def show(self) -> None:
        """Show what is known now."""
        table = self.query_one_optional(DataTable)
        if table is None:
            return  # the screen is being removed
        for place, watched in enumerate(self._pipelines):
            for name, cell in zip(self.COLUMNS, shown.summary(watched, now()), strict=True):
                table.update_cell(str(place), name, cell, update_width=True)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the pipeline."""
        self.app.push_screen(PipelineScreen(self._pipelines[event.cursor_row]))


class TopApp(App[None]):
    """Shows one pipeline, or all of several."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c,ctrl+q", "quit", "Quit", priority=True)
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, pipelines: Sequence[Watched]) -> None:
        super().__init__()
        self._pipelines = pipelines

    def on_mount(self) -> None:
        """Ask all APIs from now on."""
        several = len(self._pipelines) > 1
        first = OverviewScreen(self._pipelines) if several else PipelineScreen(self._pipelines[0])
        self.push_screen(first)
        for watched in self._pipelines:
            self.run_worker(watched.watch(self.changed), group="watch")

    def changed(self) -> None:
        """Show what is known now, also below a question."""
        for screen in self.screen_stack:
            if isinstance(screen, OverviewScreen | PipelineScreen) and screen.is_mounted:
                screen.show()
