"""What the comparison should show."""

from typing import Any

TARGET = (
    "CPU per delivery at most 1/20 (CPython) and 1/25 (PyPy) of the textbook's on CPython, less than Graphile Worker's, at "
    "most 1.5 (CPython) and 1.25 (PyPy) times the bare Go worker's, and more deliveries a second than Graphile Worker"
)
TIMES_TEXTBOOK_MAX = {"CPython": 1 / 20, "PyPy": 1 / 25}
TIMES_GO_MAX = {"CPython": 1.5, "PyPy": 1.25}


def judge(rows: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Return each goal, with its figure, and whether it holds; a goal beside a contestant that did not run is left out."""
    goals: dict[str, bool] = {}

    def at_most(runtime: str, other: str, times_max: float) -> None:
        ours = rows.get(f"webhook-worker, {runtime}")
        if ours and other in rows:
            times = ours["worker_us"] / rows[other]["worker_us"]
            goals[f"{runtime} costs {times:.3g} times {other} (at most {times_max:.3g})"] = times <= times_max

    graphile = "Graphile Worker (undici)"
    for runtime in ("CPython", "PyPy"):
        at_most(runtime, "textbook (asyncpg + httpx.AsyncClient), CPython", TIMES_TEXTBOOK_MAX[runtime])
        at_most(runtime, graphile, 1.0)
        at_most(runtime, "bare Go worker (pgx, net/http)", TIMES_GO_MAX[runtime])
        ours = rows.get(f"webhook-worker, {runtime}")
        if ours and graphile in rows:
            times = ours["per_second"] / rows[graphile]["per_second"]
            goals[f"{runtime} delivers {times:.3g} times as much as {graphile} (more)"] = times > 1.0
    return goals
