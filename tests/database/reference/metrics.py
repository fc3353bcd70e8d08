"""docs/reference/metrics.md: every family that a scrape of a worker may have, from what collects them."""

from collections.abc import Iterable
from unittest.mock import MagicMock

from prometheus_client import Metric, ProcessCollector

from reference.markdown import code, page, prose, table
from worker.pipeline.tally import Histogram, Tally
from worker.service.loop_lag import BOUNDS
from worker.service.metrics import WorkerCollector
from worker.service.sampler import Sample
from worker.service.top_endpoints import TopEndpoints

INTRODUCTION = """
What `/metrics` has, by name. [Metrics and health](../metrics.md) says what each is good for, and how it is measured. What
ends in `_seconds` is in seconds, in `_bytes` in bytes; all else is a number of things. Histograms have `_bucket` (label `le`),
`_sum` and `_count`, summaries `_sum` and `_count`.
"""


def text() -> str:
    """Return the page."""
    families = list(WorkerCollector(measured()).collect())
    histograms = [(code(family.name), _bounds(family)) for family in families if family.type == "histogram"]
    return page(
        "Metrics", INTRODUCTION,
        "## Of a worker", _table(families),
        "## Buckets", table(("name", "upper bounds, in seconds"), sorted(histograms)),
        "## Of its process", "As the Prometheus client for Python collects them on Linux.",
        _table(ProcessCollector(registry=None).collect()),
    )  # fmt: skip


def measured() -> MagicMock:
    """Return a worker that has everything to show: its numbers do not matter here."""
    worker = MagicMock()
    worker.tally, worker.loop_lag, worker.endpoints = Tally(), Histogram(BOUNDS), TopEndpoints(1)
    worker.sampler.latest = Sample({}, [], 0.0, {}, 0.0, 0, 0.0)
    return worker


def _table(families: Iterable[Metric]) -> str:
    rows = [(code(_name(family)), family.type, _labels(family), prose(family.documentation)) for family in families]
    return table(("name", "type", "labels", ""), sorted(rows))


def _name(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def _labels(family: Metric) -> str:
    return ", ".join(map(code, getattr(family, "_labelnames", ())))


def _bounds(histogram: Metric) -> str:
    return ", ".join(sample.labels["le"] for sample in histogram.samples if "le" in sample.labels)
