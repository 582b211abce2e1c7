"""
The command ``init``: from two URLs to a commented configuration that works.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from engine.cli.command import Command
from engine.cli.wiring import load_settings, make_source
from engine.errors import ConfigError
from engine.schema import Table

__all__ = ["INIT"]

#: How many tables the file lists by name; a longer list helps nobody.
LISTED_TABLES = 40

TEMPLATE = """\
# Tailrace. Every key with its default, unit and reason stands in the reference configuration.

[pipeline]
name = {name}  # the checkpoint's name in the target: keep it for the pipeline's whole life

[source]
url = {source}
tables = [{patterns}]  # patterns, schema.table
"""
SINK_TEMPLATE = """
[sink]
url = {sink}
"""


def init(options: argparse.Namespace) -> int:
    """Write a commented configuration from two URLs, after looking at the source.

    A password in a URL is not written into the file, which takes it from the environment instead:
    SOURCE_PASSWORD and TARGET_PASSWORD.
    """
    output: Path = options.output
    if output.exists() and not options.force:
        raise ConfigError(f"{output} exists already", hint="choose another --output, or --force")
    source_url, database = _split_database(_without_password(options.source, "SOURCE_PASSWORD"))
    text = TEMPLATE.format(
        name=json.dumps(output.stem),
        source=json.dumps(source_url),
        patterns=json.dumps(f"{database or '*'}.*"),
    )
    sink = SINK_TEMPLATE.format(
        sink=json.dumps(_without_password(options.target, "TARGET_PASSWORD"))
    )
    draft = output.with_name(output.name + ".draft")
    draft.write_text(text + sink, encoding="utf-8")
    try:
        tables, rows = _look(draft)
        draft.write_text(text + _listing(tables, rows) + sink, encoding="utf-8")
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    from rich.console import Console

    console = Console()
    console.print(f"wrote [bold]{output}[/]: {len(tables):,} tables, about {rows:,} rows")
    for name in ("SOURCE_PASSWORD", "TARGET_PASSWORD"):
        if f"${{{name}}}" in text + sink:
            console.print(f"set the environment variable [bold]{name}[/] before you go on")
    console.print(f"next: [bold]tailrace check {output}[/]")
    return 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="e.g. mysql://repl@legacy:3306/shop")
    parser.add_argument("target", help="e.g. postgresql://tailrace@new:5432/shop")
    parser.add_argument("-o", "--output", type=Path, default=Path("tailrace.toml"), metavar="FILE")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


INIT = Command(
    "init", "write a configuration from two URLs", init, _add_options, takes_config=False
)


def _look(config: Path) -> tuple[Sequence[Table], int]:
    """The tables that the source holds now, and about how many rows."""
    with closing(make_source(load_settings(config))) as source:
        tables = source.catalog()
        if not tables:
            raise ConfigError(
                "the source shows no table that matches",
                hint="name the database in the URL, and check what the user may SELECT",
            )
        return tables, sum(source.estimates(tables).values())


def _listing(tables: Sequence[Table], rows: int) -> str:
    """What was found, as comments."""
    lines = [f"# found: {len(tables):,} tables, about {rows:,} rows"]
    for table in tables[:LISTED_TABLES]:
        remark = "" if table.key else "  (no key: copied in one piece, compared as a bag)"
        lines.append(f"#   {table.id}{remark}")
    if len(tables) > LISTED_TABLES:
        lines.append(f"#   … and {len(tables) - LISTED_TABLES:,} more")
    return "\n".join(lines) + "\n"


def _without_password(url: str, variable: str) -> str:
    """The URL with its password in the environment: in this process, and by name in the file."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    if not parts.password.startswith("${"):
        os.environ[variable] = unquote(parts.password)
    account, _, host = parts.netloc.rpartition("@")
    user = account.split(":", 1)[0]
    secret = parts.password if parts.password.startswith("${") else f"${{{variable}}}"
    return urlunsplit(parts._replace(netloc=f"{user}:{secret}@{host}"))


def _split_database(url: str) -> tuple[str, str]:
    """The URL without its path, and the database that the path names."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="/")), unquote(parts.path.strip("/"))
