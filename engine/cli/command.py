"""
What a command of ``tailrace`` is: each module of commands says it of its own, next to their code.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Command"]


class Command(NamedTuple):
    """``tailrace NAME``: ``help`` is its line in the list, the docstring of ``run`` the rest."""

    name: str
    help: str
    #: Does it; returns the exit status.
    run: Callable[[argparse.Namespace], int]
    add_options: Callable[[argparse.ArgumentParser], None]
    #: Whether its first argument is the configuration.
    takes_config: bool = True
