"""
The description of a ``tailrace`` command. Each module of commands defines its own next to the code.
``seconds`` is a type of their options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Command", "seconds"]


class Command(NamedTuple):
    """``tailrace NAME``. ``help`` is its line in the list; the docstring of ``run`` is its help."""

    name: str
    help: str
    #: Runs the command and returns the exit status.
    run: Callable[[argparse.Namespace], int]
    add_options: Callable[[argparse.ArgumentParser], None]
    #: Whether its first argument is the configuration.
    takes_config: bool = True
    #: Whether it can work through the API of the engine, without the configuration.
    takes_api: bool = False


def seconds(text: str) -> float:
    """A positive number of seconds."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value
