"""
Random samples of a table's rows, and what a sample proves.

Each row is in the sample with the same probability, whatever the others are (Bernoulli sampling):
the database draws a random number for each row. Given its size, such a sample is as likely to be
any set of so many rows as any other, so it has no clusters.

If x of n rows of the sample differ, ``highest_share`` is the upper limit of Clopper and Pearson
("The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26,
1934): the largest share p of rows that differ with which x or fewer of n are found with the
probability 1 - confidence. For x = 0 it is 1 - (1 - confidence)^(1/n), which is close to 3/n for
95 % ("rule of three": Hanley and Lippman-Hand, JAMA 249, 1983). It holds for rows that are drawn
with replacement. Without, as here, differences are found with a higher probability, so the share is
smaller than stated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

from engine.schema import Table
from engine.toolkit.row_limit import RowLimit

__all__ = [
    "CONFIDENCE",
    "MOST_DRAWN",
    "SampleSize",
    "SamplesKeys",
    "batches",
    "highest_share",
    "percent",
]

#: The probability with which a share that is larger than stated is found out.
CONFIDENCE: Final = 0.95
#: Rows of a table that are drawn, whose keys are held in memory. If none of so many differs, less
#: than 0.0015 % of the rows do.
MOST_DRAWN: Final = 200_000
#: Halvings of the interval that has the limit.
_STEPS: Final = 60

_Key = tuple[str | None, ...]


class SampleSize(NamedTuple):
    """How many rows of each table are wanted, or which share of them. About ``MOST_DRAWN`` rows of
    a table are drawn at most."""

    rows: int = 0
    share: float = 0.0

    def share_of(self, rows: int) -> float:
        """The share of a table with so many rows; 1 is all of it."""
        share = self.share or (self.rows / rows if rows > self.rows else 1.0)
        return share if share >= 1 else min(share, MOST_DRAWN / max(rows, 1))


@runtime_checkable
class SamplesKeys(Protocol):
    """A ``RowReader`` whose database draws random rows."""

    def size(self, table: Table) -> int:
        """The number of rows from which ``sample`` draws. May be too high where rows are left out
        by a mapping."""

    def sample(self, table: Table, share: float) -> list[_Key]:
        """The keys of rows, each of which is drawn with the probability ``share``."""


def highest_share(found: int, rows: int) -> float:
    """The share of the table's rows below which those that differ are with ``CONFIDENCE``, if
    ``found`` of ``rows`` differ."""
    if found >= rows:
        return 1.0
    if not found:
        return -math.expm1(math.log1p(-CONFIDENCE) / rows)
    low, high = found / rows, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _at_most(found, rows, middle) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _at_most(found: int, rows: int, share: float) -> float:
    """The probability that at most ``found`` of ``rows`` differ: a sum of binomial terms."""
    if share >= 1.0:
        return 0.0
    whole, one, other = math.lgamma(rows + 1), math.log(share), math.log1p(-share)
    return math.fsum(
        math.exp(
            whole - math.lgamma(n + 1) - math.lgamma(rows - n + 1) + n * one + (rows - n) * other
        )
        for n in range(found + 1)
    )


def batches(keys: Sequence[_Key], limit: RowLimit) -> Iterator[list[_Key]]:
    """The keys in lists of as many as rows may be read at once."""
    start = 0
    while start < len(keys):
        end = start + limit.rows
        yield list(keys[start:end])
        start = end


def percent(share: float) -> str:
    """A share as a percentage, rounded up to two digits."""
    value = 100 * share
    digits = max(0, 1 - math.floor(math.log10(value)))
    scale = 10**digits
    return f"{math.ceil(value * scale - 1e-9) / scale:.{digits}f} %"
