"""Draws a run: requests a second and the backlog, with the faults as bars below.

.bench/bin/python -m benchmarks.chaos.plot benchmarks/results/chaos-….json
"""

import json
import sys
from pathlib import Path
from typing import Any

PLOT = Path(__file__).parents[2] / "docs/plots/chaos.svg"
REQUESTS, BACKLOG, FAULT = "#1f77b4", "#d62728", "#b0b0b0"
MOMENT_SECONDS = 0.7
"""How wide a fault is drawn that takes no time."""


def plot(report: dict[str, Any], file: Path) -> None:
    """Draw it as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "webhook-worker", "font.size": 9, "axes.spines.top": False})
    from matplotlib import pyplot as plt

    series = report["series"]
    kinds = sorted({fault["kind"] for fault in series["faults"]})
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 3 + 0.17 * len(kinds)), sharex=True, height_ratios=[3, 0.17 * len(kinds)]
    )
    above.plot(series["arrivals_per_second"], color=REQUESTS, linewidth=1)
    above.set_ylabel("requests a second", color=REQUESTS)
    above.set_ylim(bottom=0)
    beside = above.twinx()
    beside.plot(*zip(*series["backlog"], strict=True), color=BACKLOG, linewidth=1)
    beside.set_ylabel("deliveries not ended", color=BACKLOG)
    beside.set_ylim(bottom=0)
    for fault in series["faults"]:
        lasts = max(MOMENT_SECONDS, fault["until"] - fault["since"])
        below.barh(kinds.index(fault["kind"]), lasts, left=fault["since"], color=FAULT)
        above.axvspan(fault["since"], fault["since"] + lasts, color=FAULT, alpha=0.08, linewidth=0)
    below.set_yticks(range(len(kinds)), kinds)
    below.invert_yaxis()
    below.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text()), PLOT)
