"""
The spans of ``engine.ops.tracing``, made by the SDK of OpenTelemetry.

A thread of the SDK sends them. Exceptions are not recorded, because their messages and stacks may
have values of rows: a span that fails has the class of the error.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, Status, StatusCode, set_span_in_context

from engine.ops.tracing import Tracing

__all__ = ["CLOSE_SECONDS", "OtelTracing", "make_resource"]

#: How long the end of the engine waits for what is not sent yet.
CLOSE_SECONDS = 3.0
_TRACES_PATH = "/v1/traces"


class OtelTracing(Tracing):
    """Sends the spans of ``pipeline`` to the receiver at ``endpoint``."""

    def __init__(self, endpoint: str, pipeline: str) -> None:
        # The end of the process does not wait for the receiver.
        self._provider = TracerProvider(resource=make_resource(pipeline), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + _TRACES_PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tailrace", version("tailrace"))
        self._attempt: Span | None = None
        self._transaction: Span | None = None
        #: The open span of ``inside``.
        self._inner: Span | None = None

    def span(self, name: str, **attributes: str | int) -> AbstractContextManager[None]:
        """A root span for the body. The spans of transactions have a link to that of the attempt.
        At its end, a transaction that is open ends, too.
        """
        return self._root(name, attributes)

    @contextmanager
    def _root(self, name: str, attributes: dict[str, str | int]) -> Generator[None, None, None]:
        span = self._tracer.start_span(name, Context(), attributes=_named(attributes))
        before = self._attempt
        self._attempt = before or span
        failed = ""
        try:
            yield
        except BaseException as error:
            failed = type(error).__name__
            raise
        finally:
            self._attempt = before
            if before is None:
                self.end_transaction(failed or "rolled back")
            _end(span, failed)

    def inside(self, name: str, **attributes: str | int) -> AbstractContextManager[None]:
        """A span for the body, in the one around it, or in the transaction's."""
        if self._transaction is None:
            links = [] if self._attempt is None else [Link(self._attempt.get_span_context())]
            self._transaction = self._tracer.start_span("transaction", Context(), links=links)
        return self._child(name, attributes, self._inner or self._transaction)

    @contextmanager
    def _child(
        self, name: str, attributes: dict[str, str | int], parent: Span
    ) -> Generator[None, None, None]:
        context = set_span_in_context(parent, Context())
        span = self._tracer.start_span(name, context, attributes=_named(attributes))
        before, self._inner = self._inner, span
        failed = ""
        try:
            yield
        except BaseException as error:
            failed = type(error).__name__
            raise
        finally:
            self._inner = before
            _end(span, failed)

    def commit(self, position: str) -> AbstractContextManager[None]:
        """A span for a commit, if a transaction is open."""
        if self._transaction is None:
            return nullcontext()
        self._transaction.set_attribute("tailrace.position", position)
        return self.inside("commit")

    def end_transaction(self, error: str = "") -> None:
        """End the span of the transaction, if it is open."""
        span, self._transaction = self._transaction, None
        if span is not None:
            _end(span, error)

    def close(self) -> None:
        """Send what waits, for a short time. The SDK itself would wait longer."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)


def make_resource(pipeline: str) -> Resource:
    """What spans and metrics are about. The attributes of OTEL_SERVICE_NAME and
    OTEL_RESOURCE_ATTRIBUTES take precedence.
    """
    own = {
        "service.name": "tailrace",
        "service.version": version("tailrace"),
        "tailrace.pipeline": pipeline,
    }
    return Resource(own).merge(OTELResourceDetector().detect())


def _named(attributes: dict[str, str | int]) -> dict[str, str | int]:
    return {f"tailrace.{name}": value for name, value in attributes.items()}


def _end(span: Span, error: str) -> None:
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
        span.set_attribute("error.type", error)
    span.end()
