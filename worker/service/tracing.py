"""Spans of attempts, by OpenTelemetry: the only module that needs it, and imported where it is wanted (the extra `otel`)."""

from collections.abc import Awaitable, Callable
from functools import lru_cache

import anyio
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from worker import __version__
from worker.core.model import Delivery, Exchange, Request
from worker.core.trace import TRACE_HEADERS
from worker.core.url import BadURL, parse_url
from worker.pipeline.ports import NotSentError, Sender

FLUSH_SECONDS_MAX = 1.5

_CONTEXT = TraceContextTextMapPropagator()
_NOWHERE = Context()


def traced(sender: Sender, worker: str) -> "TracingSender":
    """Return it with spans that go to the collector that the environment names (`OTEL_…`), as this worker's."""
    return TracingSender(sender, OTLPSpanExporter(), worker)


class TracingSender:
    """See `worker.pipeline.ports.Sender`. Each request is a CLIENT span, below the one that its event came with, if any.

    The receiver gets the span's own context. What was not written leaves no span.
    """

    def __init__(self, sender: Sender, exporter: SpanExporter, worker: str) -> None:
        self._sender, self._exporter = sender, exporter
        ours = Resource({SERVICE_NAME: "webhook-worker", SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: worker})
        resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())  # what the environment says counts
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("webhook-worker", __version__)

    def lead_seconds(self, url: str, transport: str) -> float:
        """See the port."""
        return self._sender.lead_seconds(url, transport)

    async def send(self, request: Request, before_write: Callable[[bool], Awaitable[None]]) -> Exchange:
        """See the port."""
        delivery = request.delivery
        if delivery is None:
            return await self._sender.send(request, before_write)
        span = self._tracer.start_span(
            "POST",
            _CONTEXT.extract(dict(delivery.trace), _NOWHERE) if delivery.trace else _NOWHERE,
            SpanKind.CLIENT,
            _attributes(request, delivery),
        )
        headers = dict[str, str]()
        _CONTEXT.inject(headers, set_span_in_context(span, _NOWHERE))
        own = tuple((name, value) for name, value in request.headers if name.lower() not in TRACE_HEADERS)
        request.headers = (*own, *headers.items())
        try:
            exchange = await self._sender.send(request, before_write)
        except NotSentError:
            raise
        except BaseException as error:
            cut_off = isinstance(error, anyio.get_cancelled_exc_class())
            _end(span, "interrupted" if cut_off else "internal_error", None)
            raise
        delivered = exchange.status is not None and 200 <= exchange.status < 300
        _end(span, "ok" if delivered else exchange.outcome or "http_status", exchange.status)
        return exchange

    async def aclose(self) -> None:
        """Close the sender, and export what is left, for a moment: a collector that is away keeps no worker from ending."""
        await self._sender.aclose()
        flushed = False
        try:
            with anyio.move_on_after(FLUSH_SECONDS_MAX):
                await anyio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)
                flushed = True
        finally:
            if not flushed:
                self._exporter.shutdown()  # it tries no longer, and the thread ends


def _attributes(request: Request, delivery: Delivery) -> dict[str, AttributeValue]:
    """Return what is known before it is sent, named as the semantic conventions for HTTP clients name it."""
    return {
        "http.request.method": "POST",
        "http.request.resend_count": delivery.attempt - 1,
        "http.request.body.size": len(request.body),
        **_of_url(request.url),
        "webhook.delivery.id": delivery.id,
        "webhook.event.id": delivery.event_id,
        "webhook.endpoint.id": delivery.endpoint.id,
        "webhook.tenant": delivery.endpoint.tenant,
        "webhook.attempt": delivery.attempt,
    }


@lru_cache(maxsize=10_000)
def _of_url(url: str) -> dict[str, AttributeValue]:
    """Return where it goes. A query may hold a token, so it is not told."""
    try:
        target = parse_url(url, allow_http=True)
    except BadURL:  # it is not sent there, and may hold a password
        return {}
    path, query, _ = target.path.partition("?")
    full = f"{target.scheme}://{target.authority}{path}" + ("?REDACTED" if query else "")
    return {"url.full": full, "server.address": target.host, "server.port": target.port}


def _end(span: Span, outcome: str, status: int | None) -> None:
    if span.is_recording():
        span.set_attribute("webhook.outcome", outcome)
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if outcome != "ok":
            span.set_attribute("error.type", outcome if status is None else str(status))
            span.set_status(StatusCode.ERROR, outcome)
    span.end()
