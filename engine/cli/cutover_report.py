"""
The report of a cutover: ``tailrace cutover --report`` writes it from the stored record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.cli.output import print_warning
from engine.cli.report import Wanted, write_report
from engine.errors import ConfigError, TailraceError
from engine.handover import Cutover, CutoverStore

__all__ = ["reported", "write_cutover"]


async def reported(
    work: Callable[[], Awaitable[int]],
    store: CutoverStore,
    wanted: Wanted | None,
    place: Callable[[str], str],
) -> int:
    """Do the work, and write the report of the record that it leaves. A cutover that an error has
    aborted has a report, too; one that was refused has no record.
    """
    if wanted is None:
        return await work()
    before = await store.newest()
    try:
        status = await work()
    except TailraceError:
        try:
            after = await store.newest()
            if after != before:
                write_cutover(wanted, after, place)
        except TailraceError as error:
            print_warning(f"there is no report: {error.message}", error.hint)
        raise
    write_cutover(wanted, await store.newest(), place)
    return status


def write_cutover(wanted: Wanted, cutover: Cutover | None, place: Callable[[str], str]) -> None:
    """Write the report of a record. ``place`` returns the form of a position that people read.
    Raises ConfigError if there is no record, and OutputError.
    """
    from engine.cutover.content import make_content
    from engine.cutover.page import page

    if cutover is None:
        raise ConfigError("there was no cutover of this pipeline, so there is nothing to report")
    content = make_content(cutover)
    write_report(wanted, content, lambda digest, key: page(content, digest, key, place))
