"""Draws a sale: orders and arrivals a second, what waits, and how old the oldest of it is.

.bench/bin/python -m benchmarks.ticket_sale.plot benchmarks/results/ticket-sale-….json docs/plots/ticket-sale.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.plots import prepare, save

SOLD = "#b0b0b0"
COLOURS = {"fine": "#2ca02c", "limited": "#1f77b4", "down": "#d62728"}
PANELS = {
    "arrivals": "arrivals a second (logarithmic)",
    "backlog": "orders that it has not got",
    "oldest": "age of the oldest, seconds",
}


def draw(series: dict[str, Any], file: Path) -> None:
    """Draw a report's series as SVG."""
    from matplotlib import pyplot as plt

    prepare()
    figure, panels = plt.subplots(3, 1, figsize=(8, 7.5), sharex=True, height_ratios=[1.3, 1, 1])
    seconds = range(1, len(series["sold"]) + 1)
    panels[0].fill_between(seconds, series["sold"], step="pre", color=SOLD, alpha=0.5, linewidth=0, label="orders sold")
    for axes, (curve, title) in zip(panels, PANELS.items(), strict=True):
        for name, partner in series["partners"].items():
            axes.plot(seconds, partner[curve], color=COLOURS[name], linewidth=1.2, label=name)
        axes.set_title(title, loc="left")
        for moment in (series["closed"], series["back"]):
            axes.axvline(moment, color="black", linewidth=0.6, linestyle=":")
    failed = series["partners"]["down"]["failed"]
    panels[0].plot(failed, [1] * len(failed), "x", color=COLOURS["down"], markersize=5, label="failed attempt")
    panels[0].set_yscale("symlog", linthresh=1)
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, ncols=5, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.1))
    for moment, what, side in ((series["closed"], "sold out ", "right"), (series["back"], " back", "left")):
        panels[2].annotate(what, (moment, 0.9), xycoords=("data", "axes fraction"), ha=side, fontsize=7)
    for axes in panels[1:]:
        axes.set_ylim(bottom=0)
    panels[-1].set_xlabel("seconds since the sale began")
    save(figure, file)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text())["series"], Path(sys.argv[2]))
