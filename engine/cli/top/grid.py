"""
The list of tables, of which only the lines on the screen are drawn: there may be 10,000.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from engine.cli.top.shown import RED
from engine.ops.log import printable
from engine.ops.status import TableStatus
from engine.ops.terminal import STATE_ORDER, STATE_STYLE
from engine.ops.words import proof_words

__all__ = ["ORDERS", "TableGrid", "heading"]


#: Red is dark where there are no colours.
STYLE = {**STATE_STYLE, "quarantined": RED}


class Order(NamedTuple):
    """A way to sort tables."""

    name: str
    key: Callable[[TableStatus], tuple[object, ...]]


def _trouble(table: TableStatus) -> tuple[object, ...]:
    return (not table.dead_letters, STATE_ORDER.index(table.state), not table.drift, table.table)


def _proven(table: TableStatus) -> tuple[object, ...]:
    proof = table.proof
    return (not table.differs, (proof and proof.equal_at) or 0.0)


ORDERS = (
    Order("trouble", lambda it: (it.state != "quarantined", *_trouble(it))),
    Order("name", lambda it: (it.table,)),
    Order("rows", lambda it: (-it.rows, it.table)),
    Order("applied", lambda it: (-it.applied, it.table)),
    Order("drift", lambda it: (-it.drift, it.table)),
    Order("letters", lambda it: (-it.dead_letters, it.table)),
    Order("proven", lambda it: (*_proven(it), it.table)),
)

STATE_WIDTH = 12
NUMBERS = (("applied", 13), ("drift", 7), ("letters", 8), ("proven", 11), ("rows", 13))
#: The least width of names. A narrow screen lacks the columns on the right.
NAME_WIDTH = 24


def _line(name: str, state: str, numbers: Sequence[str], width: int) -> str:
    room, cells = width - NAME_WIDTH - STATE_WIDTH - 1, f" {state:<{STATE_WIDTH}}"
    for number, (_, cell_width) in zip(numbers, NUMBERS, strict=True):
        if cell_width > room:
            break
        room -= cell_width
        cells += f"{number:>{cell_width}}"
    return set_cell_size(set_cell_size(name, NAME_WIDTH + max(0, room)) + cells, width)


def heading(order: Order, width: int) -> str:
    """The line above the list, with a mark at the column by which it is sorted."""
    marked = [f"{name} ↓" if name == order.name else name for name, _ in NUMBERS]
    first = "table ↓" if order.name == "name" else "table"
    return _line(first, "state ↓" if order.name == "trouble" else "state", marked, width)


class TableGrid(ScrollView, can_focus=True):
    """The tables that match ``pattern``, in an order. One of them is selected."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000000)", show=False),
        Binding("end", "move(1000000000)", show=False),
    ]

    class Selected(Message):
        """Another table is selected."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.order = ORDERS[0]
        self.pattern = ""
        self._tables: Sequence[TableStatus] = ()
        self._shown: list[TableStatus] = []
        self._place = 0

    @property
    def line_width(self) -> int:
        """The width of a line, without the scroll bar."""
        return self.scrollable_content_region.width

    @property
    def selected(self) -> TableStatus | None:
        """The selected table; None if the list is empty."""
        return self._shown[self._place] if self._shown else None

    @property
    def shown(self) -> Sequence[TableStatus]:
        """The tables that match, in their order."""
        return self._shown

    def show(self, tables: Sequence[TableStatus]) -> None:
        """Show other tables. The same one stays selected, if it is still there."""
        self._tables = tables
        self.rearrange()

    def rearrange(self) -> None:
        """Search and sort again."""
        before = self.selected
        wanted = self.pattern.casefold()
        found = [it for it in self._tables if wanted in it.table.casefold()]
        self._shown = sorted(found, key=self.order.key)
        self._place = min(self._place, max(0, len(self._shown) - 1))
        if before is not None and self._place:  # at the top, what comes first is selected
            places = (n for n, it in enumerate(self._shown) if it.table == before.table)
            self._place = next(places, self._place)
        self.virtual_size = Size(0, len(self._shown))
        self.refresh()
        self.post_message(self.Selected())

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        place, width = self.scroll_offset.y + y, self.line_width
        if place >= len(self._shown):
            return Strip.blank(width, self.rich_style)
        table = self._shown[place]
        numbers = [f"{n:,}" if n else "" for n in (table.applied, table.drift, table.dead_letters)]
        numbers += [proof_words(table.proof, time.time()), f"{table.rows:,}"]
        name, state = printable(table.table), table.state.replace("_", " ")
        line = _line(name, state, numbers, width)
        style = self.rich_style + Style.parse(STYLE[table.state])
        if place == self._place:
            style += Style(reverse=True)
        return Strip([Segment(line, style)], width)

    def action_move(self, by: int) -> None:
        """Select the table so many lines below."""
        if self._shown:
            self._place = max(0, min(len(self._shown) - 1, self._place + by))
            self.scroll_to_region(Region(0, self._place, 1, 1), animate=False)
            self.refresh()
            self.post_message(self.Selected())

    def action_page(self, by: int) -> None:
        """Select the table so many screens below."""
        self.action_move(by * max(1, self.size.height - 1))
