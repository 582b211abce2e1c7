"""Reads the metrics of a pipeline as a monitoring system does, for tests."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engine.ops.metrics import Metrics

__all__ = ["OPEN_METRICS", "samples"]

#: The header Accept of a client that asks for OpenMetrics.
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def samples(metrics: Metrics, pipeline: str = "p") -> dict[str, float]:
    """Every sample as ``name{values of its other labels, in the order of their names}``.

    Fails if the label ``pipeline`` of a sample is not ``pipeline``.
    """
    found = {}
    for family in text_string_to_metric_families(metrics.render(OPEN_METRICS)[0].decode()):
        for sample in family.samples:
            assert sample.labels.pop("pipeline") == pipeline
            labels = ",".join(value for _, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
