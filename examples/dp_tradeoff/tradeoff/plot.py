"""tradeoff.svg and tradeoff.png: loss and F1 against epsilon, means over seeds with the lowest and highest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from textwrap import wrap
from typing import Final

from cells.figure import drawn
from matplotlib.axes import Axes

from fedsec.report.drawing import AMBER, BLUE, GREY, INK, LINE
from fedsec.study.results import ZERO_SHOT
from tradeoff.cells import DISTRIBUTED, LOCAL, NONE
from tradeoff.measure import Row
from tradeoff.tables import Group, Setting, groups_of, times, usual_of

COLOURS: Final = {NONE: INK, LOCAL: AMBER, DISTRIBUTED: BLUE}
WORDS: Final = {
    NONE: "no differential privacy",
    LOCAL: "local: each site adds all its noise",
    DISTRIBUTED: "distributed: the masked sum has the noise",
}
_LINES: Final = {"-": "line", "--": "dashed", "-.": "dash-dotted", ":": "dotted"}
_OFFSET: Final = {NONE: 0.0, LOCAL: -0.06, DISTRIBUTED: 0.06}
Groups = Mapping[Group, Sequence[Row]]
Value = Callable[[Row], float]
MEASURES: Final[tuple[tuple[str, Value], ...]] = (
    ("Loss, nats per answer token", lambda row: row.loss),
    ("Entity F1, strict", lambda row: row.f1),
)


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes both files, and returns their paths. Same rows, same SVG. Nothing for no trained row."""
    groups, usual = groups_of(rows), usual_of(rows)
    if usual is None:
        return []
    rates = {group: some for group, some in groups.items() if group[0]._replace(rate=usual.rate) == usual}
    others = {group: some for group, some in groups.items() if group[0].rate == usual.rate}
    below = [(_rates, rates)] if any(setting != usual for setting, *_ in rates) else []
    below += [(_settings, others)] if any(s != usual and math.isfinite(e) for s, _, e in others) else []
    untrained = next((row for row in rows if row.mode == ZERO_SHOT), None)
    target = folder / "tradeoff"
    with drawn(target, 7.4, 3.3 + 2.7 * len(below)) as figure:
        axes = figure.subplots(1 + len(below), 2, squeeze=False)
        for column, (title, value) in enumerate(MEASURES):
            _curves(axes[0, column], groups, usual, value, None if untrained is None else value(untrained))
            axes[0, column].set_title(title)
            for line, (panel, shown) in enumerate(below, start=1):
                panel(axes[line, column], shown, usual, value)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return [target.with_suffix(".svg"), target.with_suffix(".png")]


def _curves(axes: Axes, groups: Groups, usual: Setting, value: Value, untrained: float | None) -> None:
    """The main grid: a curve a mode."""
    found = sorted({epsilon for setting, _, epsilon in groups if setting == usual})
    for mode, colour in COLOURS.items():
        points = [(found.index(e), rows) for (s, m, e), rows in groups.items() if (s, m) == (usual, mode)]
        if points:
            points.sort(key=lambda point: point[0])
            _points(axes, [x + _OFFSET[mode] for x, _ in points], [rows for _, rows in points], value, colour, "-")
            axes.plot([], [], "o-", color=colour, label=WORDS[mode])
    if untrained is not None:
        axes.axhline(untrained, color=GREY, linestyle=":", label="untrained")
    axes.set_xticks(range(len(found)), ["∞" if math.isinf(e) else f"{e:g}" for e in found])
    axes.set_xlabel("ε, target (less is more private)")
    axes.grid(axis="y", color=LINE, linewidth=0.5)


def _rates(axes: Axes, groups: Groups, usual: Setting, value: Value) -> None:
    """A curve a mode over the learning rates that were tried, at every epsilon that has other rates than the usual."""
    finite = sorted({e for setting, _, e in groups if setting != usual and math.isfinite(e)}, reverse=True)
    lines = dict(zip((math.inf, *finite), ("-", *_LINES), strict=False))
    shown = {group: rows for group, rows in groups.items() if group[2] in lines}
    tried = sorted({setting.rate for setting, *_ in shown})
    for (mode, colour), (epsilon, line) in product(COLOURS.items(), lines.items()):
        found = {s.rate: rows for (s, m, e), rows in shown.items() if (m, e) == (mode, epsilon)}
        if found:
            at = [tried.index(rate) + _OFFSET[mode] for rate in sorted(found)]
            _points(axes, at, [found[rate] for rate in sorted(found)], value, colour, line)
    axes.set_xticks(range(len(tried)), [times(rate) for rate in tried])
    words = [f"{e:g}" + (f" ({_LINES[lines[e]]})" if len(finite) > 1 else "") for e in finite if e in lines]
    axes.set_xlabel("times the learning rate of the curves\nat ε = " + ", ".join(words))
    axes.grid(axis="y", color=LINE, linewidth=0.5)


def _settings(axes: Axes, groups: Groups, usual: Setting, value: Value) -> None:
    """Other settings beside the main one, at every epsilon that any of them has."""
    finite = sorted({e for setting, _, e in groups if setting != usual and math.isfinite(e)})
    places = sorted({setting for setting, _, e in groups if e in finite}, key=lambda s: (s != usual, s))
    for (setting, mode, epsilon), rows in groups.items():
        if setting in places and epsilon in (*finite, math.inf):
            at = places.index(setting) + 2 * _OFFSET[mode]
            _points(axes, [at], [rows], value, COLOURS[mode], "")
    axes.set_xticks(range(len(places)), ["\n".join(wrap(s.words(usual), 14)) for s in places], fontsize=7)
    axes.set_xlabel("settings at ε = " + ", ".join(f"{e:g}" for e in finite))
    axes.grid(axis="y", color=LINE, linewidth=0.5)


def _points(
    axes: Axes, at: Sequence[float], some: Sequence[Sequence[Row]], value: Value, colour: str, line: str
) -> None:
    """Means, and lowest to highest where there are several: a bar of one run would say that runs do not differ."""
    values = [[value(row) for row in rows] for rows in some]
    means = [sum(v) / len(v) for v in values]
    axes.plot(at, means, f"o{line}", color=colour, markersize=4, linewidth=1.2)
    for x, mean, found in zip(at, means, values, strict=True):
        if len(found) > 1:
            ends = [[max(0.0, mean - min(found))], [max(0.0, max(found) - mean)]]
            axes.errorbar([x], [mean], ends, fmt="none", ecolor=colour, capsize=3, elinewidth=1.2)
