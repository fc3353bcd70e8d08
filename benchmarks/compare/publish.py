"""Turns a comparison's JSON into the README's table and the plots.

python -m benchmarks.compare.publish benchmarks/results/compare-….json
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.plots import COLOURS, PLOTS, ROOT, prepare, save

README = ROOT / "README.md"
BEGIN, END = "<!-- comparison -->\n", "<!-- end of comparison -->"
OTHERS, OURS = "#b0b0b0", "#1f77b4"


def table(report: dict[str, Any]) -> str:
    """Return the comparison as Markdown, the cheapest first."""
    lines = [
        "| | deliveries/s | CPU a delivery, worker | Postgres | p50, p99 at half load | memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(_compared(report), key=lambda row: float(row["worker_us"])):
        name = f"**{row['contestant']}**" if row["contestant"].startswith("webhook-worker") else row["contestant"]
        latency = "–" if row["p50_ms"] is None else f"{row['p50_ms']:,.0f}, {row['p99_ms']:,.0f} ms"
        server = f"{row['server_us']:,.0f} µs" if row["server_us"] else "–"
        figures = (f"{row['per_second']:,.0f}", f"{row['worker_us']:,.0f} µs", server, latency, f"{row['rss_mb']:,.0f} MB")
        lines.append(f"| {' | '.join((name, *figures))} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str, report: dict[str, Any]) -> str:
    """Return the README with this report's table between its marks."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}{table(report)}{END}", readme, count=1, flags=re.DOTALL)


def plot(report: dict[str, Any], folder: Path) -> None:
    """Draw throughput, CPU, latency, and the growth of our own worker, as SVG."""
    prepare()
    compared = sorted(_compared(report), key=lambda row: float(row["worker_us"]))
    _bars(folder / "throughput.svg", "deliveries a second", compared, "per_second")
    _bars(folder / "cpu.svg", "CPU of the worker a delivery, µs", compared, "worker_us")
    _bars(folder / "latency.svg", "from commit to arrival at half load, p99, ms", compared, "p99_ms")
    for series in ("lanes", "endpoints", "processes"):
        _lines(folder / f"growth-{series}.svg", series, [row for row in report["rows"] if row["series"] == series])


def _bars(file: Path, title: str, rows: list[dict[str, Any]], column: str) -> None:
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row[column] is not None][::-1]
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(rows) + 0.8))
    colours = [OURS if row["contestant"].startswith("webhook-worker") else OTHERS for row in rows]
    bars = axes.barh([row["contestant"] for row in rows], [row[column] for row in rows], color=colours)
    axes.bar_label(bars, [f" {row[column]:,.0f}" for row in rows])
    axes.set_xscale("log")
    axes.set_xlim(right=2 * max(row[column] for row in rows))  # room for the labels
    axes.set_title(f"{title} (logarithmic)", loc="left")
    save(figure, file)


def _lines(file: Path, series: str, rows: list[dict[str, Any]]) -> None:
    from matplotlib import pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(8, 2.6))
    for axes, column, title in zip(
        both, ("per_second", "worker_us"), ("deliveries a second", "CPU a delivery, µs"), strict=True
    ):
        for runtime, colour in COLOURS.items():
            name = f"webhook-worker, {runtime}"
            mine = [row for row in rows if row["contestant"] == name]
            axes.plot([row["size"] for row in mine], [row[column] for row in mine], "o-", color=colour, label=name)
        axes.set_xscale("log")
        axes.set_xticks(sorted({row["size"] for row in rows}), [f"{size:,}" for size in sorted({row["size"] for row in rows})])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel(series)
        axes.set_title(title, loc="left")
    both[0].legend(frameon=False)
    save(figure, file)


def _compared(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in report["rows"] if row["series"] == "comparison"]


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    README.write_text(with_table(README.read_text(), given))
    plot(given, PLOTS)
