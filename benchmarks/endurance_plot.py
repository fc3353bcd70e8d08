"""Draws the long run from its JSON: docs/plots/endurance.svg.

python -m benchmarks.endurance_plot benchmarks/results/endurance-….json
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.plots import COLOURS, PLOTS, prepare, save

SECONDS_A_MINUTE = 60


def plot(report: dict[str, Any], file: Path) -> None:
    """Draw what is sampled over time: memory, files, hot tables, claim and record, latency, what waits."""
    from matplotlib import pyplot as plt

    prepare()
    samples = report["series"]["samples"]
    minutes = [sample["at"] / SECONDS_A_MINUTE for sample in samples]
    runtimes = [name for name in COLOURS if f"{name} rss_mb" in samples[0]]
    tables = [key for key in samples[0] if key.startswith("hot ")]
    panels: dict[str, dict[str, str]] = {
        "memory, MB": {name: f"{name} rss_mb" for name in runtimes},
        "open files": {name: f"{name} files" for name in runtimes},
        "hot tables with indexes, MB": {key.removeprefix("hot "): key for key in tables},
        "mean call, ms": {"claim": "claim_ms", "record": "record_ms"},
        "enqueue to arrival, ms": {"p50": "p50_ms", "p99": "p99_ms"},
        "deliveries that wait": {"": "backlog"},
    }
    figure, grid = plt.subplots(3, 2, figsize=(8, 6.6), sharex=True)
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=True):
        for label, key in lines.items():
            values = [float("nan") if sample[key] is None else sample[key] for sample in samples]
            axes.plot(minutes, values, linewidth=0.8, label=label, color=COLOURS.get(label))
        axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left")
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("minutes")
    save(figure, file)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text()), PLOTS / "endurance.svg")
