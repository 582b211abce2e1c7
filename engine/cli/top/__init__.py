"""
``tailrace top``: running pipelines in the terminal, over their APIs.

``watched`` asks an API again and again. ``shown`` makes lines of a status, and is pure. ``grid`` is
the list of tables, ``questions`` what each key asks before it gives a command, and ``app`` puts
them together, with Textual.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.cli.api_address import add_token, address_of, configured_address
from engine.cli.command import Command
from engine.cli.directory import pipelines_of
from engine.cli.top.watched import Watched
from engine.cli.wiring import load_settings
from engine.errors import ConfigError

__all__ = ["TOP"]


def top(options: argparse.Namespace) -> int:
    """Show one or many running pipelines in the terminal, and control them by keys.

    CONFIG is a configuration with [api], or a directory that `tailrace run` runs; URL is the API of
    an engine, such as https://cdc.example:9187. The engines serve it where [api] or `tailrace run
    --listen` says. A pipeline that does not answer is shown as such, and comes back by itself.
    Every command is asked for before it is given. docs/top.md lists the keys.
    """
    found = [it for target in options.targets for it in _watched(target, options)]
    if not (sys.stdin.isatty() and sys.stderr.isatty()):  # Textual draws on standard error
        raise ConfigError(
            "this needs a terminal", hint="`tailrace status CONFIG --json` works without one"
        )
    from engine.cli.top.app import TopApp

    TopApp(found).run()
    return 0


def _watched(target: str, options: argparse.Namespace) -> list[Watched]:
    """A pipeline by its configuration, or by the URL of its API; all of a directory. Raises
    ConfigError, or ApiError if the supervisor of a directory does not answer.
    """
    if target.lower().startswith(("http://", "https://")):
        return [Watched(target, address_of(target, options))]
    if Path(target).is_dir():
        found = pipelines_of(Path(target), options)
        return [Watched(name, address, config=file) for name, file, address in found]
    settings = load_settings(Path(target))
    address = configured_address(settings.api, options)
    return [Watched(settings.pipeline.name, address, config=target)]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets", nargs="+", metavar="CONFIG_OR_URL", help="a configuration, or an API's URL"
    )
    add_token(parser)


TOP = Command("top", "running pipelines in the terminal", top, _add_options, takes_config=False)
