"""
A configuration → its source and its sink. This is the only place that uses the registries.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import msgspec

from engine.contract import Sink, Source
from engine.mapping.changes import Mapping
from engine.recovery import places_of
from engine.settings import registry
from engine.settings.loader import Settings, load
from sinks import SINKS
from sources import SOURCES

__all__ = [
    "load_settings",
    "make_mapping",
    "make_sink",
    "make_source",
    "places",
    "version_and_codecs",
]


def source_class(scheme: str) -> Any:
    """The class of sources for this scheme. Raises ConfigError, which names the known schemes."""
    return registry.load(scheme, SOURCES, "tailrace.sources")


def sink_class(scheme: str) -> Any:
    """The class of sinks for this scheme. Raises ConfigError, which names the known schemes."""
    return registry.load(scheme, SINKS, "tailrace.sinks")


def load_settings(path: Path) -> Settings:
    """Read a configuration, with the settings of its source and its sink."""
    return load(
        path,
        lambda scheme: cast("type[msgspec.Struct]", source_class(scheme).Settings),
        lambda scheme: cast("type[msgspec.Struct]", sink_class(scheme).Settings),
    )


def make_source(settings: Settings) -> Source:
    """The configured source, not connected."""
    return cast("Source", source_class(settings.source_scheme)(settings.source))


def places(settings: Settings) -> Callable[[str], str]:
    """A function that returns the place of a position in the form that people read."""
    with closing(make_source(settings)) as source:
        return places_of(source)


def make_mapping(settings: Settings) -> Mapping:
    """The configured mapping of tables. Raises ConfigError."""
    return Mapping(settings.mapping, settings.mask, settings.errors)


def make_sink(settings: Settings) -> Sink:
    """The configured sink, not connected."""
    return cast("Sink", sink_class(settings.sink_scheme)(settings.sink, settings.pipeline.name))


def version_and_codecs() -> tuple[str, str]:
    """The version, and whether the codecs of rows are compiled: ``compiled``, ``partly compiled``
    or ``plain Python``.
    """
    from sinks.postgres import accelerator as encoder
    from sources.mysql.codec import accelerator as decoder

    built = (decoder.AVAILABLE, encoder.AVAILABLE)
    codecs = "compiled" if all(built) else "partly compiled" if any(built) else "plain Python"
    return version("tailrace"), codecs
