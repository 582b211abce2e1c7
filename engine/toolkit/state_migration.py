"""
The layout of stored state, and the upgrade of what an older layout holds. Pure.

The layout is one number for every store of a pipeline's state: the schema ``tailrace`` in
PostgreSQL and the file ``state.json``. A store records it beside the state. An engine that takes a
pipeline over upgrades an older layout and refuses a newer one. Commands that only read convert an
older layout in memory and change nothing.

Layout 2 differs from layout 1 in its words:

    layout 1                              layout 2
    column of a table version: native     source_type
    progress: seen                        high_watermark
    progress, state: copying, settling    backfilling, catching_up

Table versions stay JSON text here. Values that do not change are passed on byte for byte
(``msgspec.Raw``), so nothing that the current structs do not know is lost.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.errors import SinkError

__all__ = [
    "LAYOUT",
    "RENAMED_STATES",
    "UPGRADED",
    "require_known",
    "upgrade_progress",
    "upgrade_table",
]

#: The layout that this version writes.
LAYOUT = 2

#: The message that a store logs after an upgrade, with from_layout, to_layout and tables.
UPGRADED = "the stored state is upgraded; older versions of tailrace cannot use it any more"

#: Layout 1 → 2: the states of a table's progress, those that were renamed.
RENAMED_STATES = {"copying": "backfilling", "settling": "catching_up"}
#: Layout 1 → 2: the fields of a table's progress, and of a column.
RENAMED_PROGRESS_FIELDS = {"seen": "high_watermark"}
RENAMED_COLUMN_FIELDS = {"native": "source_type"}


class _Columns(msgspec.Struct):
    columns: list[dict[str, msgspec.Raw]]


def require_known(layout: int | None, place: str) -> int:
    """The layout found at ``place``; raises ``SinkError`` if this version cannot read it."""
    if layout is None or not 1 <= layout <= LAYOUT:
        raise SinkError(
            f"{place} has layout {layout}, this version knows {LAYOUT}",
            hint="Use the version of tailrace that made it, or a newer one.",
        )
    return layout


def upgrade_table(definition: str | bytes) -> bytes:
    """The JSON of a table version of layout 1, in layout 2. Raises ``msgspec.DecodeError``."""
    table = msgspec.json.decode(definition, type=dict[str, msgspec.Raw])
    columns = [
        {RENAMED_COLUMN_FIELDS.get(name, name): value for name, value in column.items()}
        for column in msgspec.json.decode(definition, type=_Columns).columns
    ]
    return msgspec.json.encode({**table, "columns": columns})


def upgrade_progress(progress: Mapping[str, object]) -> dict[str, object]:
    """The fields of a table's progress of layout 1, in layout 2; any of them may be absent."""
    upgraded = {RENAMED_PROGRESS_FIELDS.get(name, name): it for name, it in progress.items()}
    state = upgraded.get("state")
    if isinstance(state, str):
        upgraded["state"] = RENAMED_STATES.get(state, state)
    return upgraded
