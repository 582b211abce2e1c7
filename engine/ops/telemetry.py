"""
Starts what is sent to a receiver of OpenTelemetry, if one is configured: traces and metrics.

The packages are those of the extra ``tailrace[otel]``. Only ``engine.ops.otel`` and
``otel_metrics`` import them, which are imported here.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from engine.errors import ConfigError
from engine.ops.metric_sender import MetricSender
from engine.ops.tracing import NO_TRACING, Tracing

__all__ = ["start_metrics", "start_tracing"]


def start_tracing(endpoint: str, pipeline: str) -> Tracing:
    """The spans of ``pipeline``, sent to the receiver at the base URL ``endpoint``; none if it is
    empty. Raises ConfigError if the packages are missing.
    """
    if not endpoint:
        return NO_TRACING
    _check(endpoint)
    from engine.ops.otel import OtelTracing

    return OtelTracing(endpoint, pipeline)


def start_metrics(endpoint: str, pipeline: str) -> MetricSender:
    """What sends the metrics of ``pipeline`` to the receiver at ``endpoint``, as ``start_tracing``.

    OTEL_SDK_DISABLED and OTEL_METRICS_EXPORTER=none leave them out, for those who scrape them.
    """
    left_out = (
        os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or os.environ.get("OTEL_METRICS_EXPORTER", "").lower() == "none"
    )
    if not endpoint or left_out:
        return MetricSender()
    _check(endpoint)
    from engine.ops.otel_metrics import OtelMetrics

    return OtelMetrics(endpoint, pipeline)


def _check(endpoint: str) -> None:
    """Raise ConfigError if nothing can be sent there."""
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            "telemetry.endpoint is not an http or https URL",
            hint='write endpoint = "http://collector:4318" in [telemetry]',
        )
    if not (find_spec("opentelemetry") and find_spec("opentelemetry.exporter")):
        raise ConfigError(
            "the packages of OpenTelemetry are not installed, and [telemetry] has an endpoint",
            hint="`pip install 'tailrace[otel]'`, or leave the endpoint out",
        )
