"""
``supervisor.toml``: the settings of a supervisor, next to the configurations of its pipelines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import Struct

from engine.settings.api import ApiSettings
from engine.settings.loader import LogSettings, load_part

__all__ = ["FILE", "SupervisorSettings", "load_supervisor"]

#: The name of the file. It is optional, and no pipeline.
FILE: Final = "supervisor.toml"
#: Where the supervisor listens, if the file does not say.
LISTEN: Final = "127.0.0.1:9187"


class SupervisorSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``api`` is the server for all pipelines; ``max_lag_seconds`` is that of each pipeline's own
    file. The format of ``log`` is that of the engines, too; their level is that of their files.
    """

    api: ApiSettings = ApiSettings()
    log: LogSettings = LogSettings()

    @property
    def listen(self) -> str:
        """The address of the server."""
        return self.api.listen or LISTEN


def load_supervisor(directory: Path) -> SupervisorSettings:
    """The settings of the supervisor of a directory. Raises ConfigError."""
    path = directory / FILE
    return load_part(path, SupervisorSettings) if path.exists() else SupervisorSettings()
