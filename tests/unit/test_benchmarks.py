"""The judges of the benchmarks: each must be able to say no."""

import json
import math
from collections import Counter
from typing import Any

import pytest

from benchmarks import (
    bulk_retry,
    burst,
    endurance,
    enqueue_cost,
    fairness,
    fan_out,
    held_snapshot,
    idle,
    one_endpoint,
    origins,
    receiver,
    sender,
    steps,
)
from benchmarks.__main__ import main
from benchmarks.arrivals import Arrival, first_arrivals, latencies, percentile
from benchmarks.compare.goals import judge
from benchmarks.compare.publish import BEGIN, END, README, table, with_table
from benchmarks.endurance_judge import Run, judge_run
from benchmarks.stage import Cost
from worker.store.postgres import PostgresStore

EVENTS = 10
COMPARISON = README.parent / "benchmarks/results/compare-unreleased.json"


@pytest.mark.parametrize(("name", "knows"), [("chaos", True), ("idle", False)])
def test_a_benchmark_may_have_arguments_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, knows: bool
) -> None:
    """Wherever its name is, and no other has them."""
    monkeypatch.setattr("sys.argv", ["benchmarks", "--scale", "0.5", name, "--help"])
    with pytest.raises(SystemExit):
        main()
    assert knows == ("--minutes" in capsys.readouterr().out)


def test_percentile_is_the_nearest_rank() -> None:
    """Half of the values are at most the median, and the 99th percentile of a hundred is the second largest."""
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, 50), percentile(values, 99), percentile([7.0], 99)] == [50.0, 99.0, 7.0]


def test_what_never_arrived_counts() -> None:
    """An event that did not arrive has at least the latency for which it was waited."""
    first = first_arrivals([Arrival("/", 1.5, "a", 1.0), Arrival("/", 4.0, "a", 1.0), Arrival("/", 2.0, "b", math.nan)])
    assert latencies([1.0, 2.0], first, 10.0) == ([0.5, 8.0], 1)


@pytest.mark.parametrize(
    ("bystander_seconds", "peak_mb", "committing", "arrivals", "holds"),
    [
        (0.020, 50.0, 0.5, EVENTS, True),
        (0.040, 50.0, 0.5, EVENTS, False),
        (0.020, 90.0, 0.5, EVENTS, False),
        (0.020, 50.0, 1.5, EVENTS, False),
        (0.020, 50.0, 0.5, EVENTS + 1, False),
        (0.020, 50.0, 0.5, EVENTS - 1, False),
    ],
    ids=["good", "bystander", "memory", "commits", "duplicate", "loss"],
)
def test_burst_is_judged(bystander_seconds: float, peak_mb: float, committing: float, arrivals: int, *, holds: bool) -> None:
    """A slow bystander, a fat worker, slow commits, a duplicate or a loss each fail it."""
    phases = {
        "burst": burst.Phase("burst", [5.0], 3.0, 9.0, 10.0, 1, EVENTS, EVENTS, EVENTS, peak_mb),
        "steady": burst.Phase("steady", [15.0], 13.0, 19.0, 20.0, 1, EVENTS, EVENTS, EVENTS, 50.0),
    }
    came = [Arrival("/burst/1", 6.0, f"m{min(n, EVENTS - 1)}", math.nan) for n in range(arrivals)]
    came += [Arrival("/burst/1", 16.0, f"m{n}", math.nan) for n in range(EVENTS)]
    came += [Arrival("/bystander", 5.0 + bystander_seconds, "b", 5.0), Arrival("/bystander", 15.02, "b", 15.0)]
    report = burst._judge(phases["burst"], phases["steady"], [1.0, 2.0, 2.0 + committing], came)
    assert report.holds == holds


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"exited": 1}, False),
        ({"restarts": 1}, False),
        ({"states": {"delivered": 1999, "dead": 1}}, False),
        ({"planned": [n / 500 for n in range(1999)]}, False),
        ({"planned": [n / 510 for n in range(2000)]}, False),
        ({"arrived": [n / 500 for n in range(2001)]}, False),
        ({"most_times": 2}, False),
        ({"arrived": [max(n / 500, 0.9) for n in range(2000)]}, True),
        ({"arrived": [max(n / 500, 1.3) for n in range(2000)]}, False),
        ({"arrived": [n / 470 for n in range(2000)]}, False),
    ],
)
def test_bulk_retry_is_judged(changes: dict[str, Any], *, holds: bool) -> None:
    """A lost or second one, a rate that is not kept at the plan or at the receiver, a slow or failed job each fail it."""
    even = [n / 500 for n in range(2000)]
    good: dict[str, Any] = {"dead": 2000, "exited": 0, "restarts": 2, "states": {"delivered": 2000}, "most_times": 1}
    assert holds == bulk_retry._judge(**{**good, "planned": even, "arrived": even, **changes}).holds


@pytest.mark.parametrize(("seconds", "holds"), [(0.014, True), (0.016, False), (None, False)], ids=["good", "slow", "lost"])
def test_fairness_is_judged(seconds: float | None, *, holds: bool) -> None:
    """The small tenant alone being slow, or missing an event, fails it; half as slow again is the limit."""
    phases = [
        fairness.Phase(kind, [start + 1.0], [start + 2.0], start, start + 9.0)
        for kind, start in (("with", 0.0), ("without", 10.0), ("alone", 20.0))
    ]
    first = {start + n: start + n + 0.010 for start in (0.0, 10.0, 20.0) for n in (1.0, 2.0)}
    del first[2.0]
    if seconds is not None:
        first[2.0] = 2.0 + seconds
    assert fairness._judge(phases, first).holds == holds


@pytest.mark.parametrize(
    ("free", "held", "holds"),
    [([100.0] * 10, 81.0, True), ([100.0] * 10, 79.0, False), ([100.0] * 9 + [50.0], 50.0, False)],
    ids=["good", "slow", "both-decay"],
)
def test_held_snapshot_is_judged(free: list[float], held: float, *, holds: bool) -> None:
    """The side without a holder makes nobody look well by slowing down itself."""
    store = PostgresStore("postgresql:///", "never connects")
    sides = {name: held_snapshot.Side("", store) for name in ("free", "held")}
    sides["free"].per_second, sides["held"].per_second = free, [100.0] * 9 + [held]
    assert held_snapshot._judge(sides, 1.0).holds == holds


@pytest.mark.parametrize(("cpu_us", "holds"), [(800.0, True), (801.0, False)])
def test_enqueue_cost_is_judged(cpu_us: float, *, holds: bool) -> None:
    """By the CPU of an event for one endpoint, beside that of the order alone."""
    compared = enqueue_cost.kinds()
    for kind in compared:
        kind.latency_us, kind.cpu_us, kind.wal_bytes = [1.0], [100.0], [1.0]
    compared[2].cpu_us = [cpu_us]
    assert enqueue_cost.judge(compared).holds == holds


@pytest.mark.parametrize("worse", ["transactions_per_second", "cpu_percent", "p99_ms", "missing"])
def test_idle_is_judged(worse: str) -> None:
    """Each of its four figures can fail it, on either runtime."""
    good = {"transactions_per_second": 50.0, "cpu_percent": 2.0, "p99_ms": 49.9, "missing": 0}
    assert [idle._judge([good, good]).holds, idle._judge([good, {**good, worse: 50.1}]).holds] == [True, False]


@pytest.mark.parametrize(
    ("plain", "tls", "resumed", "holds"),
    [(14.0, 21.0, 75.0, True), (14.1, 20.0, 75.0, False), (14.0, 21.1, 75.0, False), (14.0, 21.0, 75.1, False)],
    ids=["good", "dear", "dear TLS", "dear handshake"],
)
def test_sender_is_judged(plain: float, tls: float, resumed: float, *, holds: bool) -> None:
    """Each of its three ratios can fail it, on one runtime alone; one bad round of three does not."""

    def one(plain: float, tls: float, resumed: float) -> sender.Round:
        return sender.Round(Cost(10.0, 1.0), Cost(plain, 1.0), Cost(tls, 1.0), (100.0, resumed))

    good, judged = one(14.0, 21.0, 75.0), one(plain, tls, resumed)
    textbook = {"CPython": Cost(300.0, 1.0)}
    assert sender._judge({"CPython": [good], "PyPy": [judged]}, textbook).holds == holds
    assert sender._judge({"CPython": [good, judged, good]}, textbook).holds
    quick = judged._replace(handshakes=None)
    assert sender._judge({"CPython": [quick]}, textbook).holds == (holds or resumed > 75)


@pytest.mark.parametrize(("us", "holds"), [(0.0, True), (0.2, False)])
def test_steps_are_judged(us: float, *, holds: bool) -> None:
    """What is part of another step does not count twice."""
    figures = {name: {"a": budget - 0.1, f"{steps.PART}b": 5.0, "c": us} for name, budget in steps.BUDGET_US.items()}
    assert steps._judge(figures).holds == holds


@pytest.mark.parametrize(
    ("cpu_us", "files", "rss_mb", "few_mb", "holds"),
    [
        (20.0, 120, 60.0, 80.0, True),
        (20.1, 100, 50.0, 80.0, False),
        (20.0, 121, 50.0, 80.0, False),
        (20.0, 100, 60.1, 80.0, False),
        (20.0, 120, 60.0, 80.1, False),
    ],
    ids=["good", "dear", "files", "growth", "memory"],
)
def test_origins_are_judged(cpu_us: float, files: int, rss_mb: float, few_mb: float, *, holds: bool) -> None:
    """Cost, files, growth and memory can each fail it."""
    few = origins.Measured(Cost(10.0, 1.0), (100, 100), (70.0, few_mb))
    many = origins.Measured(Cost(cpu_us, 1.0), (100, files), (50.0, rss_mb))
    assert origins._judge({"CPython": {"few": few, "many": many}}).holds == holds


@pytest.mark.parametrize(("one", "holds"), [(30.0, True), (29.9, False)])
def test_one_endpoint_is_judged(one: float, *, holds: bool) -> None:
    """On each runtime it gets its share of what many get."""
    good, judged = one_endpoint.Pair(Cost(9.0, 50.0), Cost(9.0, 100.0)), one_endpoint.Pair(Cost(9.0, one), Cost(9.0, 100.0))
    assert one_endpoint._judge({"CPython": good, "PyPy": judged}).holds == holds


@pytest.mark.parametrize(
    ("enqueue_ms", "seconds", "wrong", "holds"),
    [(10.0, 5.0, 0, True), (10.1, 5.0, 0, False), (10.0, 5.1, 0, False), (10.0, 5.0, 1, False)],
    ids=["good", "producer", "workers", "duplicate"],
)
def test_fan_out_is_judged(enqueue_ms: float, seconds: float, wrong: int, *, holds: bool) -> None:
    """A producer that waits, slow workers, and a delivery too many or too few each fail it."""
    row = {"enqueue_ms_median": enqueue_ms, "workers_seconds_median": seconds, "wrong_endpoints": wrong}
    assert fan_out._judge([row]).holds == holds


@pytest.mark.parametrize(
    ("cpython", "pypy", "per_second", "failed"),
    [
        (50.0, 40.0, 6000.0, []),
        (50.1, 40.0, 6000.0, ["CPython costs 0.0501 times textbook"]),
        (50.0, 40.1, 6000.0, ["PyPy costs 0.0401 times textbook"]),
        (50.0, 40.0, 5000.0, ["CPython delivers 1 times", "PyPy delivers 1 times"]),
        (50.0, 46.1, 6000.0, ["PyPy costs 0.0461 times textbook", "PyPy costs 1.28 times bare Go"]),
        (54.1, 40.0, 6000.0, ["CPython costs 0.0541 times textbook", "CPython costs 1.5 times bare Go"]),
        (100.1, 40.0, 6000.0, ["CPython costs 0.1 times", "CPython costs 1 times Graphile", "CPython costs 2.78 times"]),
    ],
    ids=["good", "textbook", "textbook PyPy", "slow", "Go PyPy", "Go", "Graphile"],
)
def test_the_comparison_is_judged(cpython: float, pypy: float, per_second: float, failed: list[str]) -> None:
    """Each goal can fail, and says by how much."""
    costs = {
        "webhook-worker, CPython": (cpython, per_second),
        "webhook-worker, PyPy": (pypy, per_second),
        "textbook (asyncpg + httpx.AsyncClient), CPython": (1000.0, 300.0),
        "Graphile Worker (undici)": (100.0, 5000.0),
        "bare Go worker (pgx, net/http)": (36.0, 9000.0),
    }
    goals = judge({name: {"worker_us": cost, "per_second": many} for name, (cost, many) in costs.items()})
    assert len(goals) == 8
    missed = [goal for goal, held in goals.items() if not held]
    assert len(missed) == len(failed)
    assert all(goal.startswith(start) for goal, start in zip(missed, failed, strict=True))


def test_a_goal_needs_its_contestant() -> None:
    """Beside who did not run, nothing is claimed."""
    assert judge({"webhook-worker, CPython": {"worker_us": 1.0, "per_second": 1.0}}) == {}


def test_the_table_of_the_readme_is_of_the_committed_results() -> None:
    """Nobody edits it by hand, and it holds who was measured."""
    report = json.loads(COMPARISON.read_text())
    readme = README.read_text()
    assert BEGIN in readme
    assert END in readme
    assert with_table(readme, report) == readme
    assert table(report).count("\n") == 2 + sum(row["series"] == "comparison" for row in report["rows"])


def test_a_tally_counts_each_number_once() -> None:
    """What came again is answered, but no longer different; the times are those since somebody asked."""
    tally = receiver.Tally()
    for number, seconds in ((0, 0.0101), (9, 0.0109), (1_000_000, 2.0), (9, 0.5)):
        tally.add(number, seconds)
    told = json.loads(tally.tell())
    assert (told["different"], told["took"]) == (3, {"10": 2, "2000": 1, "500": 1})
    assert json.loads(tally.tell())["took"] == {}


def test_percentiles_of_counts() -> None:
    """The same nearest rank as of a list."""
    counts = Counter({10: 98, 20: 1, 30: 1})
    assert [endurance.percentile_of(counts, percent) for percent in (50, 98, 99, 100)] == [10, 10, 20, 30]
    assert endurance.percentile_of(Counter(), 50) is None


SAMPLE = {
    "CPython rss_mb": 40.0, "CPython files": 100, "hot pending": 10.0, "hot claim_batch": 0.1, "claim_ms": 4.0,
    "record_ms": 4.0, "backlog": 100, "p50_ms": 1, "p99_ms": 9, "machine cpu_percent": 60.0, "history event": 5.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "good", "bad"),
    [
        ("CPython rss_mb", 44.0, 44.1),
        ("CPython files", 125, 126),
        ("hot pending", 12.5, 12.6),
        ("hot claim_batch", 5.0, 5.1),
        ("claim_ms", 5.0, 5.1),
        ("record_ms", 5.0, 5.1),
        ("backlog", 600, 601),
    ],
)
def test_endurance_is_judged(worse: str, good: float, bad: float) -> None:
    """Each of its figures can fail it by the last quarter; what the first is like does not matter."""

    def judged(figure: float) -> bool:
        before, after = [{**SAMPLE, worse: 1e6}] * 4 + [SAMPLE] * 8, [{**SAMPLE, worse: figure}] * 4
        return judge_run(Run(1000.0, before + after, EVENTS, EVENTS, EVENTS, [0, 0])).holds

    assert [judged(good), judged(bad)] == [True, False]


@pytest.mark.parametrize(
    ("arrived", "different", "status", "holds"),
    [(10, 10, 0, True), (9, 9, 0, False), (11, 10, 0, False), (10, 10, 1, False)],
    ids=["good", "loss", "duplicate", "disorderly"],
)
def test_endurance_counts(arrived: int, different: int, status: int, *, holds: bool) -> None:
    """A loss, a duplicate and a worker that does not end in order each fail it."""
    assert judge_run(Run(1000.0, [SAMPLE] * 16, EVENTS, arrived, different, [0, status])).holds == holds
