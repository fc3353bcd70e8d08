"""What a worker counts, as Prometheus metrics. docs/metrics.md says what each means.

Imported late and in a thread, by `worker.service.monitor` alone: prometheus_client takes its time. Nothing is counted here: a
scrape reads the plain numbers that the pipeline, the sampler and housekeeping keep.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from worker import __version__
from worker.pipeline.tally import Histogram, Tally
from worker.service.measured import Measured
from worker.service.sampler import Sample
from worker.service.top_endpoints import Totals

PREFIX = "webhook_worker_"

Values = Iterable[tuple[Sequence[str], float]]
"""The values of labels, and what has them."""


def exposition(measured: Measured) -> Callable[[], bytes]:
    """Return what writes the text of a scrape: this worker's metrics, and the process's: CPU, memory, open files."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(WorkerCollector(measured))
    _Process(registry=registry)
    return partial(generate_latest, registry)


class _Process(ProcessCollector):
    """The client's own, which finds nothing at all where /proc/stat is hidden, as systemd's ProcSubset=pid does."""

    def _boot_time(self) -> float:
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class WorkerCollector(Collector):
    """Turns one worker's numbers into metric families, at each scrape."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured

    def collect(self) -> Iterator[Metric]:
        """Give every family of which something is known."""
        measured = self._measured
        yield from self._process()
        yield from _attempts(measured.tally)
        yield _histogram("event_loop_lag_seconds", "How late the event loop was, looked at every 250 ms.", measured.loop_lag)
        if measured.endpoints is not None:
            yield _endpoints(measured.endpoints.totals())
        if measured.sampler.latest is not None:
            yield from _queue(measured.sampler.latest)

    def _process(self) -> Iterator[Metric]:
        """What this process did and holds."""
        measured, pipeline = self._measured, self._measured.pipeline
        counts, house = pipeline.counts, measured.house
        yield _build_info()
        yield _gauge("ready", "Whether /readyz says yes.", measured.health.problem is None)
        yield _gauge("store_up", "Whether the last claim and the last record worked.", pipeline.store_error is None)
        yield _gauge("lanes", "Deliveries that this worker carries at once, at most.", pipeline.lanes)
        yield _gauge("inflight", "Deliveries that lanes carry now.", pipeline.at_work)
        yield _gauge("in_hand", "Deliveries claimed and not yet recorded: waiting, in lanes, or unrecorded.", pipeline.in_hand)
        yield _gauge("unrecorded", "Outcomes that the database has not confirmed yet.", pipeline.unrecorded)
        yield _counter("claimed_deliveries", "Deliveries claimed.", counts.claimed)
        became = [(["delivered"], counts.delivered), (["retry"], counts.retried), (["dead"], counts.dead)]
        yield _counter("attempted_deliveries", "What became of attempted deliveries.", became, ["disposition"])
        deferred = [([reason], count) for reason, count in sorted(counts.deferred.items())]
        yield _counter("deferrals", "Deliveries given back unsent; their attempts do not count.", deferred, ["reason"])
        yield _counter("fenced_records", "Outcomes that came too late and changed nothing.", pipeline.fenced)
        yield _counter("leases_expired", "Deliveries that this worker took back from expired leases.", house.taken_back)
        yield _counter(
            "reconciled_endpoints", "Endpoints with due deliveries whose visit was forgotten: a bug.", house.reconciled
        )
        yield _counter("housekeeping_failures", "Tasks of housekeeping that failed.", house.failures)


def _attempts(tally: Tally) -> Iterator[Metric]:
    ended = [
        ([outcome, f"{digit}xx" if digit else "none"], count) for (outcome, digit), count in sorted(tally.attempts.items())
    ]
    yield _counter("attempts", "HTTP requests by how they ended.", ended, ["outcome", "status_class"])
    yield _histogram("attempt_duration_seconds", "How long attempts took.", tally.durations)
    yield _histogram("schedule_lag_seconds", "From when an attempt was planned or due until it began.", tally.lags)
    yield _histogram("delivery_latency_seconds", "From when a delivery was first due until it was delivered.", tally.latencies)
    yield _histogram("claim_seconds", "How long claims took, apart from waiting for something to claim.", tally.claims)
    yield _histogram("record_seconds", "How long records took.", tally.records)


def _queue(sample: Sample) -> Iterator[Metric]:
    """What the sampler saw last. Every worker of a database says the same: take the max of them, never the sum."""
    states = [([state], count) for state, count in sample.deliveries.items()]
    yield _gauge("deliveries", "Deliveries that are not delivered, by state.", states, ["state"])
    endpoints = [([state, circuit], count) for state, circuit, count in sample.endpoints]
    yield _gauge("endpoints", "Endpoints by state and circuit.", endpoints, ["state", "circuit"])
    due = sample.oldest_due_seconds
    yield _gauge("oldest_due_age_seconds", "How long the oldest delivery has been due that nothing holds back.", due)
    dead = [([table], count) for table, count in sample.dead_rows.items()]
    yield _gauge("dead_rows", "Dead rows of the hot tables, as Postgres counts them.", dead, ["table"])
    age = sample.oldest_snapshot_seconds
    yield _gauge("oldest_snapshot_age_seconds", "Age of the oldest transaction that keeps dead rows from being removed.", age)
    behind = sample.oldest_snapshot_transactions
    yield _gauge("oldest_snapshot_age_transactions", "Transactions since the oldest snapshot, a slot's included.", behind)


def _endpoints(totals: Iterable[tuple[str, Totals]]) -> Metric:
    help_ = "Attempts of the busiest endpoints, and of all others together."
    labels = ["endpoint", "tenant", "result"]
    family = SummaryMetricFamily(f"{PREFIX}endpoint_attempt_duration_seconds", help_, labels=labels)
    for endpoint, of in totals:
        for result, count in of.attempts.items():
            family.add_metric([endpoint, of.tenant, result], count, of.seconds[result])
    return family


def _build_info() -> Metric:
    labels = {
        "version": __version__,
        "implementation": platform.python_implementation(),
        "python_version": platform.python_version(),
    }
    return _gauge("build_info", "Always 1: what runs here is in the labels.", [(list(labels.values()), 1)], list(labels))


def _gauge(name: str, help_: str, values: Values | float, labels: Sequence[str] = ()) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, help_, labels=labels)
    for of, value in _labelled(values):
        family.add_metric(of, value)
    return family


def _counter(name: str, help_: str, values: Values | float, labels: Sequence[str] = ()) -> Metric:
    family = CounterMetricFamily(PREFIX + name, help_, labels=labels)
    for of, value in _labelled(values):
        family.add_metric(of, value)
    return family


def _labelled(values: Values | float) -> Values:
    return [((), values)] if isinstance(values, int | float) else values


def _histogram(name: str, help_: str, of: Histogram) -> Metric:
    bounds = [*(str(bound) for bound in of.bounds), "+Inf"]
    family = HistogramMetricFamily(PREFIX + name, help_)
    family.add_metric([], list(zip(bounds, accumulate(of.counts), strict=True)), of.sum)
    return family
