"""A receiver of OpenTelemetry: an HTTP server that takes traces and metrics."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

__all__ = ["Receiver", "attributes"]

PROTO = "opentelemetry.proto.collector"
trace_service = pytest.importorskip(f"{PROTO}.trace.v1.trace_service_pb2")
metrics_service = pytest.importorskip(f"{PROTO}.metrics.v1.metrics_service_pb2")


class Receiver:
    """Decodes what it is sent. With ``hangs`` it never answers. ``metrics`` has each request's
    metrics by name.
    """

    def __init__(self, *, hangs: bool = False) -> None:
        self.spans: list[Any] = []
        self.metrics: list[dict[str, Any]] = []
        self.resources: list[dict[str, str]] = []
        self.requests = 0
        self.free = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests += 1
                if hangs:
                    receiver.free.wait(30)
                    return
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                take = {"/v1/traces": receiver.take_spans, "/v1/metrics": receiver.take_metrics}
                take[self.path](body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take_spans(self, body: bytes) -> None:
        request = trace_service.ExportTraceServiceRequest.FromString(body)
        for each in request.resource_spans:
            self.resources.append(attributes(each.resource))
            for scope in each.scope_spans:
                self.spans += scope.spans

    def take_metrics(self, body: bytes) -> None:
        request = metrics_service.ExportMetricsServiceRequest.FromString(body)
        (each,) = request.resource_metrics
        self.resources.append(attributes(each.resource))
        self.metrics.append({it.name: it for scope in each.scope_metrics for it in scope.metrics})

    def close(self) -> None:
        self.free.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def attributes(it: Any) -> dict[str, Any]:
    """The attributes of a span, a data point or a resource."""
    return {at.key: getattr(at.value, at.value.WhichOneof("value")) for at in it.attributes}
