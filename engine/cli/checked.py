"""
What ``tailrace check`` finds about one pipeline.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.contract import Finding

__all__ = ["Checked"]


class Checked(NamedTuple):
    """The findings, the exit status that they make, and whether an engine of the pipeline may
    run.
    """

    findings: list[Finding]
    exit_status: int
    runs: bool
