"""Spans of attempts, and the context that receivers get: the real sender, a real receiver, OpenTelemetry's own exporters."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio
import anyio.abc
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from peer import OK, Script, answer, talking

from worker.core.model import Claim, Delivery, Endpoint, Exchange, Request
from worker.pipeline.ports import NotSentError
from worker.service.tracing import TracingSender, traced

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
GIVEN = (("traceparent", PARENT), ("tracestate", "congo=t61rcWkgMzE"))
DELIVERY = Delivery(
    Claim(1, 30.0, 0.0), 5, Endpoint(7, 1, "acme", "", (), 15.0, (), ()), 3, 0, None, 9, "text/plain", b"{}", trace=GIVEN
)


async def yes(_: bool) -> None:
    return


async def no(_: bool) -> None:
    raise NotSentError("its moment has passed")


async def attempt(script: Script, delivery: Delivery = DELIVERY) -> tuple[ReadableSpan, dict[str, str], Exchange]:
    """Make one attempt; return its span, the headers that arrived, and what came of it."""
    exporter = InMemorySpanExporter()
    async with talking(script) as (peer, sender):
        request = Request(peer.url, (("webhook-id", "msg_1"), *delivery.trace), b"{}", 5.0, delivery=delivery)
        tracing = TracingSender(sender, exporter, "w")
        exchange = await tracing.send(request, yes)
        await tracing.aclose()
    (span,) = exporter.get_finished_spans()
    lines = peer.requests[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    assert len(headers) == len(dict(headers))
    return span, dict(headers), exchange


async def test_an_attempt_is_a_client_span_below_the_event_s() -> None:
    """The receiver gets the span's own context, in the event's trace, with the event's state."""
    span, headers, exchange = await attempt(answer(OK))

    assert span.context is not None
    assert span.parent is not None
    assert span.attributes is not None
    assert 200 == exchange.status
    assert ("POST", SpanKind.CLIENT, StatusCode.UNSET) == (span.name, span.kind, span.status.status_code)
    assert (int(TRACE, 16), 0xB7AD6B7169203331) == (span.context.trace_id, span.parent.span_id)
    assert f"00-{TRACE}-{span.context.span_id:016x}-01" == headers["traceparent"]
    assert ("congo=t61rcWkgMzE", "msg_1") == (headers["tracestate"], headers["webhook-id"])
    attributes = dict(span.attributes)
    port = attributes.pop("server.port")
    assert {
        "http.request.method": "POST", "http.request.resend_count": 2, "http.request.body.size": 2,
        "http.response.status_code": 200, "url.full": f"http://localhost:{port}/hook?REDACTED", "server.address": "localhost",
        "webhook.delivery.id": 5, "webhook.event.id": 9, "webhook.endpoint.id": 7, "webhook.tenant": "acme",
        "webhook.attempt": 3, "webhook.outcome": "ok",
    } == attributes  # fmt: skip


async def test_without_a_context_it_begins_a_trace() -> None:
    span, headers, _ = await attempt(answer(OK), replace(DELIVERY, trace=()))

    assert span.context is not None
    assert span.parent is None
    assert headers["traceparent"].startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")


async def test_a_failure_is_an_error_with_its_kind() -> None:
    refused, _, _ = await attempt(answer(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"))

    async def hang_up(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.aclose()

    cut, _, exchange = await attempt(hang_up)

    for span, kind, outcome in ((refused, "503", "http_status"), (cut, exchange.outcome, exchange.outcome)):
        assert span.attributes is not None
        assert StatusCode.ERROR == span.status.status_code
        assert (kind, outcome) == (span.attributes["error.type"], span.attributes["webhook.outcome"])


async def test_what_was_not_written_leaves_no_span_and_what_was_cut_off_does() -> None:
    exporter = InMemorySpanExporter()

    arrived = anyio.Event()

    async def hang(_: anyio.abc.ByteStream, __: bytes) -> None:
        arrived.set()
        await anyio.sleep_forever()

    async with talking(hang) as (peer, sender):
        tracing = TracingSender(sender, exporter, "w")
        request = Request(peer.url, (), b"{}", 30.0, delivery=DELIVERY)
        with pytest.raises(NotSentError):
            await tracing.send(replace(request), no)
        async with anyio.create_task_group() as group:
            group.start_soon(tracing.send, request, yes)
            with anyio.fail_after(20):
                await arrived.wait()
            group.cancel_scope.cancel()
        await tracing.aclose()
    (span,) = exporter.get_finished_spans()

    assert span.attributes is not None
    assert "interrupted" == span.attributes["webhook.outcome"]


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector of OTLP over HTTP: its URL, and what came."""
    came: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", came
        finally:
            server.shutdown()
            thread.join()


async def test_spans_reach_a_collector_before_the_worker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """By OTLP over HTTP, where the environment says, as the worker that made them."""
    with collector() as (url, came):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        async with talking(answer(OK)) as (peer, sender):
            tracing = traced(sender, "host:1:ab")
            await tracing.send(Request(peer.url, (), b"{}", 5.0, delivery=DELIVERY), yes)
            await tracing.aclose()
    (spans,) = came[0].resource_spans
    resource = {attribute.key: attribute.value.string_value for attribute in spans.resource.attributes}

    assert ("webhook-worker", "host:1:ab") == (resource["service.name"], resource["service.instance.id"])
    assert [TRACE] == [span.trace_id.hex() for span in spans.scope_spans[0].spans]
