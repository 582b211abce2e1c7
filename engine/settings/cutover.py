"""
``[cutover]``: the limits of ``tailrace cutover``, and the programs that it calls.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.errors import ConfigError
from engine.settings.notify import secret_bytes

__all__ = ["CutoverSettings", "HookName", "HookSettings"]

HookName = Literal["freeze", "thaw", "switch", "switch_back"]


class HookSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A ``command``, or the ``url`` of a webhook, which a ``secret`` signs; neither: no hook."""

    command: tuple[str, ...] = ()
    url: str = ""
    secret: str = ""

    @property
    def given(self) -> bool:
        """Whether there is something to call."""
        return bool(self.command or self.url)

    def __post_init__(self) -> None:
        if self.url and self.command:
            raise ConfigError("cutover: a hook has a url and a command", hint="delete one of them")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError("cutover: url is not an http or https URL", hint='write "https://…"')
        if self.secret:
            if not self.url:
                raise ConfigError("cutover: a secret needs a url", hint="delete it, or add the url")
            secret_bytes(self.secret)


class CutoverSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A cutover is refused while the target is more than ``max_lag_seconds`` behind, or a table's
    last proof is older than ``proof_age_seconds``, or, if ``require_schema``, while the target
    lacks something that ``tailrace schema apply`` creates.

    ``verify``: whether all tables are compared while the source is frozen, or those that its log
    may have changed since they were found equal.

    ``freeze`` and ``thaw`` replace the source's own way to refuse writes. The log has to stand
    still for ``quiet_seconds``, within ``freeze_seconds``. After ``max_downtime_seconds`` no
    further step begins, and the cutover is aborted; 0 is no limit. Sequences go on
    ``sequence_margin`` past the maximum of their column. ``switch`` sends the applications to the
    target, and ``switch_back`` to the source again if a cutover is aborted after that. A hook that
    takes longer than ``hook_seconds`` has failed.
    """

    max_lag_seconds: Annotated[float, Meta(gt=0)] = 10.0
    proof_age_seconds: Annotated[float, Meta(gt=0)] = 86_400.0
    require_schema: bool = True
    verify: Literal["all", "changed"] = "all"
    quiet_seconds: Annotated[float, Meta(ge=0.2)] = 1.0
    freeze_seconds: Annotated[float, Meta(gt=0)] = 20.0
    max_downtime_seconds: Annotated[float, Meta(ge=0)] = 300.0
    sequence_margin: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 1000
    hook_seconds: Annotated[float, Meta(gt=0)] = 60.0
    freeze: HookSettings = HookSettings()
    thaw: HookSettings = HookSettings()
    switch: HookSettings = HookSettings()
    switch_back: HookSettings = HookSettings()

    @property
    def hooks(self) -> dict[HookName, HookSettings]:
        """All hooks by name."""
        return {
            "freeze": self.freeze,
            "thaw": self.thaw,
            "switch": self.switch,
            "switch_back": self.switch_back,
        }

    def __post_init__(self) -> None:
        if self.freeze.given != self.thaw.given:
            raise ConfigError(
                "cutover: freeze and thaw belong together, and one of them is missing",
                hint="write both, or neither",
            )
