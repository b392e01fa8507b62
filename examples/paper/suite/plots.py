"""The kinds of figures that several experiments have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from textwrap import wrap
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedsec.report.drawing import AMBER, BLUE, FAINT, GREY, INK, LINE, SKY
from suite.rows import ALL, Row, ordered, select

COLOURS: Final = (BLUE, AMBER, INK, SKY, GREY, FAINT)


def f1_dots(
    figure: Figure, rows: Sequence[Row], systems: Sequence[str], measures: Sequence[str], test: str = ALL
) -> bool:
    """A panel a measure; a line a system: every seed as a dot, the mean as a stroke. False for no row."""
    systems = [s for s in systems if any(r.system == s for r in rows)]
    measures = [m for m in measures if any(r.measure == m and r.test == test for r in rows)]
    if not systems or not measures:
        return False
    for axis, measure in zip(_lined(figure, systems, measures), measures, strict=True):
        for place, system in enumerate(systems):
            values = [r.value for r in select(rows, system=system, measure=measure, test=test) if math.isnan(r.low)]
            axis.plot(values, [place] * len(values), "o", color=BLUE, markersize=5, alpha=0.6, markeredgewidth=0)
            if values:
                axis.plot([fmean(values)], [place], "|", color=INK, markersize=13, markeredgewidth=1.6)
        axis.set_xlim(left=-0.01)
    return True


def _lined(figure: Figure, lines: Sequence[str], measures: Sequence[str]) -> Sequence[Axes]:
    """A panel a measure, a named line each from the top."""
    axes: Sequence[Axes] = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    for axis, measure in zip(axes, measures, strict=True):
        axis.set_title(measure)
        axis.grid(axis="x", color=LINE, linewidth=0.5)
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(lines)), ["\n".join(wrap(s, 26)) for s in lines])
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    return axes


def changes(
    figure: Figure, rows: Sequence[Row], systems: Sequence[str], measures: Sequence[str], unit: str, test: str = ALL
) -> bool:
    """A panel a measure; a line a system, from its mean at one x to that at the next. False for no row."""
    places = sorted({r.x for r in rows})
    if not places:
        return False
    axes = _lined(figure, systems, measures)
    for axis, measure in zip(axes, measures, strict=True):
        for line, system in enumerate(systems):
            some = select(rows, system=system, measure=measure, test=test)
            means = [fmean(r.value for r in some if r.x == x) for x in places if any(r.x == x for r in some)]
            axis.plot(means, [line] * len(means), color=GREY, linewidth=1.4, zorder=1)
        for x, colour in zip(places, COLOURS, strict=False):
            some = [r for r in select(rows, measure=measure, test=test) if r.x == x]
            lines = [systems.index(r.system) for r in some]
            axis.plot([r.value for r in some], lines, "o", color=colour, markersize=6, label=f"{x:g} {unit}")
        axis.set_xlim(left=-0.02)
    legend(figure, axes)
    return True


def curves(
    axis: Axes, rows: Sequence[Row], systems: Sequence[str], measure: str, test: str, colours: Sequence[str] = COLOURS
) -> None:
    """Values against x, a line a system: means over seeds, with the lowest and highest."""
    for system, colour in zip(systems, colours, strict=False):
        some = [r for r in select(rows, system=system, measure=measure, test=test) if math.isnan(r.low)]
        places = sorted({r.x for r in some if not math.isnan(r.x)})
        values = [[r.value for r in select(some, x=x)] for x in places]
        if not values:
            continue
        means = [fmean(v) for v in values]
        below = [max(0.0, m - min(v)) for m, v in zip(means, values, strict=True)]
        above = [max(0.0, max(v) - m) for m, v in zip(means, values, strict=True)]
        axis.errorbar(places, means, [below, above], fmt="o-", color=colour, label=system, markersize=4, capsize=3)
    axis.set_title(measure)
    axis.grid(axis="y", color=LINE, linewidth=0.5)


def line_at(axis: Axes, rows: Sequence[Row], system: str, measure: str, test: str, colour: str = GREY) -> None:
    """A system without x as a level."""
    values = [r.value for r in select(rows, system=system, measure=measure, test=test) if math.isnan(r.low)]
    if values:
        axis.axhline(fmean(values), color=colour, linestyle=":", label=system)


def legend(figure: Figure, axes: Sequence[Axes], columns: int = 3) -> None:
    """One for all panels, below."""
    found = dict(pair for axis in axes for pair in zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns)


def tests_of(rows: Sequence[Row]) -> list[str]:
    """Test sets, `ALL` last."""
    names = ordered(r.test for r in rows if r.test)
    return [*(n for n in names if n != ALL), *([ALL] if ALL in names else [])]
