"""How plots look and are kept: SVG without a date, so that the same figures give the same file."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLOTS = ROOT / "docs/plots"
COLOURS = {"CPython": "#1f77b4", "PyPy": "#d62728"}


def prepare() -> None:
    """Draw SVG, plainly. Matplotlib is in the environment of the comparison only, so it is imported late."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "webhook-worker", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )


def save(figure: Any, file: Path) -> None:
    """Write a figure to a file and forget it."""
    from matplotlib import pyplot as plt

    file.parent.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
