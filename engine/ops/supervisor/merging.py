"""
The metrics of several engines as one answer. Pure: texts in, text out.

Prometheus's text format and OpenMetrics group the samples by metric, below its HELP and TYPE, and a
metric may come only once. So the groups of all engines are put together by name. Series without the
label ``pipeline``, which are those of the process, get it here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["merged"]

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(\{)?(.*)", re.DOTALL)
_END = "# EOF"
#: Whether a pipeline has an engine that answers. Engines write it themselves.
UP = "tailrace_up"
UP_HEAD = (
    f"# HELP {UP} 1 while source and target are connected or the pipeline is paused, else 0.",
    f"# TYPE {UP} gauge",
)


class _Group:
    """A metric: its comments, and the samples of all engines."""

    def __init__(self) -> None:
        self.head: list[str] = []
        self.samples: list[str] = []


def merged(texts: Mapping[str, str | None]) -> str:
    """One text of those of all pipelines, by name. None: no engine answers, so the pipeline is not
    up. One that stands by is left out by the caller, because it is up elsewhere.
    """
    groups: dict[str, _Group] = {}
    ends = False
    for pipeline, text in texts.items():
        for name, head, samples in _groups(text or ""):
            group = groups.setdefault(name, _Group())
            group.head = group.head or head
            group.samples += (_labelled(sample, pipeline) for sample in samples)
        ends = ends or (text or "").rstrip().endswith(_END)
    silent = [name for name, text in texts.items() if text is None]
    if silent:
        up = groups.setdefault(UP, _Group())
        up.head = up.head or list(UP_HEAD)
        up.samples += (f'{UP}{{pipeline="{_escaped(name)}"}} 0.0' for name in silent)
    lines = [line for group in groups.values() for line in (*group.head, *group.samples)]
    return "\n".join([*lines, *([_END] if ends else []), ""])


def _groups(text: str) -> list[tuple[str, list[str], list[str]]]:
    """The metrics of a text: name, comments, samples."""
    found: list[tuple[str, list[str], list[str]]] = []
    for line in text.split("\n"):  # values may have other separators of lines
        if line.startswith("# ") and line != _END:
            name = line.split(" ", 3)[2]
            if not found or found[-1][0] != name:
                found.append((name, [], []))
            found[-1][1].append(line)
        elif line and line != _END and found:
            found[-1][2].append(line)
    return found


def _labelled(sample: str, pipeline: str) -> str:
    """The sample with the label ``pipeline``."""
    match = _SAMPLE.fullmatch(sample)
    if match is None:
        return sample
    name, labels, rest = match.groups()
    label = f'pipeline="{_escaped(pipeline)}"'
    if labels is None:
        return f"{name}{{{label}}}{rest}"
    if label in rest:
        return sample
    return f"{name}{{{label},{rest}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
