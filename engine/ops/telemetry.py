"""
Starts what is sent to a receiver of OpenTelemetry, if one is configured.
"""

from __future__ import annotations

from importlib.util import find_spec

from engine.errors import ConfigError
from engine.ops.tracing import NO_TRACING, Tracing

__all__ = ["start_tracing"]


def start_tracing(endpoint: str, pipeline: str) -> Tracing:
    """The spans of ``pipeline``, sent to the receiver at the base URL ``endpoint``; none if it is
    empty. Raises ConfigError if the packages are missing.
    """
    if not endpoint:
        return NO_TRACING
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
    from engine.ops.otel import OtelTracing

    return OtelTracing(endpoint, pipeline)
