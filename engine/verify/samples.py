"""
Compare random rows of a table (``engine.toolkit.sampling``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.schema import Table
from engine.toolkit.row_limit import RowLimit
from engine.toolkit.sampling import SampleSize, batches
from engine.verify.reader import AsyncReader, SourceReader
from engine.verify.report import Key

__all__ = ["compare_sample", "shares_of"]

Check = Callable[[set[Key], Callable[[set[Key]], Awaitable[set[Key]]]], Awaitable[None]]


async def shares_of(
    table: Table, source: AsyncReader, target: AsyncReader, size: SampleSize | None
) -> tuple[float, float] | None:
    """The shares of both sides that are drawn; None if all rows are compared."""
    if size is None:
        return None
    in_source = size.share_of(await source.size(table))
    in_target = size.share_of(await target.size(table))
    return None if max(in_source, in_target) >= 1 else (in_source, in_target)


async def compare_sample(
    table: Table,
    source: SourceReader,
    target: AsyncReader,
    shares: tuple[float, float],
    chunk_rows: int,
    *,
    check: Check,
    compared: Callable[[int], None],
) -> int:
    """Look up random rows of the source on the target, and of the target on the source. Returns the
    number of the latter; ``compared`` is called with numbers of the former. ``check`` decides about
    candidates. A row that no lookup finds has been deleted, and leaves the sample."""
    gone = target_rows = 0
    limit, key_limit = RowLimit(chunk_rows), RowLimit(chunk_rows)

    async def not_again(keys: set[Key]) -> set[Key]:
        nonlocal gone
        gone += len(keys)
        return set()

    for keys in batches(await source.sample(table, shares[0]), limit):
        in_source = await source.rows(table, keys, counts=True)
        in_target = await target.rows(table, keys)
        limit.add(in_source.values())
        gone = 0
        wrong = {it for it in keys if it not in in_source or in_source[it] != in_target.get(it)}
        await check(wrong, not_again)
        compared(len(keys) - gone)
    for keys in batches(await target.sample(table, shares[1]), key_limit):
        key_limit.add(keys)
        gone = 0
        await check(set(keys).difference(await source.keys(table, keys)), not_again)
        target_rows += len(keys) - gone
    return target_rows
