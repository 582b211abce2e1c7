"""Reads the metrics of a pipeline as a monitoring system does, for tests."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engine.ops.metrics import Metrics
from engine.ops.status import Status

__all__ = ["OPEN_METRICS", "samples"]

#: The header Accept of a client that asks for OpenMetrics.
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def samples(
    metrics: Metrics, pipeline: str = "p", status: Status | None = None
) -> dict[str, float]:
    """Tailrace's samples as ``name{values of its other labels, ordered by their names}``.

    Fails if the label ``pipeline`` of a sample is not ``pipeline``.
    """
    found = {}
    for family in text_string_to_metric_families(metrics.render(OPEN_METRICS, status)[0].decode()):
        for sample in family.samples:
            if not sample.name.startswith("tailrace_"):
                continue
            assert sample.labels.pop("pipeline") == pipeline
            labels = ",".join(value for _, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
