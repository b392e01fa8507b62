"""Figures in one style, as SVG and PNG: same rows, same SVG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedsec.report.drawing import STYLE


@contextmanager
def drawn(target: Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure (inches); what was drawn in it is written to ``target`` with the endings .svg and .png."""
    with style.context(["default", STYLE | {"svg.hashsalt": f"fedsec {target.name}"}], after_reset=True):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(target.with_suffix(".png"), dpi=160)
