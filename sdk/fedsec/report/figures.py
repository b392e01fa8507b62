"""The report's pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedsec.evaluation.scores import MEASURE, Kind
from fedsec.plan.canaries import CHANCE
from fedsec.privacy.shown import shown_epsilon
from fedsec.report.data import Budget, ReportData
from fedsec.report.drawing import AMBER, BLUE, FAINT, GREY, INK, SAND, SKY, svg
from fedsec.report.exposure import Exposures
from fedsec.report.rounds import RoundReport
from fedsec.report.scoring import KindReport

_ROW, _HIGHEST = 0.3, 8.5
"""Inches of a bar with its label, and of all of them: a picture has to fit on a page."""


def budget_bar(data: ReportData) -> Markup:
    """One bar a site: ε charged before this run and with it, beside what the plan may charge."""
    rows, target = data.budgets, data.plan.dp.target_epsilon
    finite = [e for b in rows for e in (b.before, b.after) if b.attested and math.isfinite(e)]
    end = 1.15 * max([*finite, target or 0.0], default=0.0) or 1.0
    before = [b.before for b in rows if b.attested]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _names(axes, [b.site for b in rows])
        axes.set_xlim(0, end)
        for place, row in enumerate(rows):
            _budget_row(axes, place, row, end)
        if target is not None:
            axes.axvline(target, color=AMBER, linewidth=1.4)
            alone = " by itself; grey: charged before it" if any(e > 0 for e in before) else ""
            axes.set_title(f"line: what the plan may charge{alone}, ε = {target:g}", color=AMBER)
        if finite and any(finite):
            axes.set_xlabel("ε charged so far")
        else:
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)

    label = "; ".join(f"{b.site}: {_charged(b)}" for b in rows)
    return svg("budget-bar", f"Privacy budget by site. {label}", 0.35 + min(_ROW * len(rows), _HIGHEST), draw)


def _budget_row(axes: Axes, place: int, row: Budget, end: float) -> None:
    if row.attested and math.isinf(row.after):
        axes.barh(place, end, height=0.62, color=SAND, linewidth=0)
        axes.text(end / 2, place, _charged(row), ha="center", va="center", color=INK)
        return
    if row.attested:
        axes.barh(place, row.before, height=0.62, color=GREY, linewidth=0)
        axes.barh(place, row.after - row.before, left=row.before, height=0.62, color=BLUE, linewidth=0)
    axes.text(row.after + end / 100, place, _charged(row), va="center", color=INK)


def _charged(row: Budget) -> str:
    if not row.attested:
        return "not attested"
    return "ε = ∞: no bound" if math.isinf(row.after) else f"ε = {shown_epsilon(row.after)}"


def exposure(found: Exposures) -> Markup:
    """By site: each canary's exposure, their mean, what the policy allows, and what chance gives."""
    rows = found.rows

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _names(axes, [row.site for row in rows])
        axes.axvline(CHANCE, color=FAINT, linewidth=1, linestyle=(0, (3, 3)))
        for place, row in enumerate(rows):
            color = AMBER if row.withheld else BLUE
            axes.plot(row.bits, [place] * len(row.bits), "o", color=color, markersize=5, alpha=0.35, linewidth=0)
            axes.plot([row.mean] * 2, [place - 0.32, place + 0.32], color=color, linewidth=2.4)
            if row.bound is not None:
                axes.plot([row.bound] * 2, [place - 0.32, place + 0.32], color=INK, linewidth=1, linestyle=(0, (1, 1)))
            axes.text(found.highest * 1.03, place, f"{row.mean:.1f}", va="center", color=color)
        axes.set_xlim(0, found.highest * 1.12)
        axes.set_title("a dot a canary; thick: their mean; dashed: chance; dotted: the most that the policy allows")
        axes.set_xlabel("exposure, bits")

    label = "; ".join(f"{row.site}: {row.mean:.1f}" for row in rows)
    height = 0.75 + min(_ROW * len(rows), _HIGHEST)
    return svg("exposure", f"Mean exposure of canaries by site, in bits. {label}", height, draw)


def fairness(report: KindReport) -> Markup:
    """By test set: F1 of the shared adapter, the weakest marked; and what it is above or below the site alone."""
    compared = any(row.gain is not None for row in report.fair)

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True) if compared else (figure.subplots(), None)
        _names(left, [row.test for row in report.fair])
        _level(left, report)
        if right is not None:
            _names(right, [])
            _gain(right, report)

    label = "; ".join(f"{r.test}: {r.federated:.2f}{', the weakest' if r.weakest else ''}" for r in report.fair)
    text = f"{report.measure} of {report.kind} of the shared adapter by test set. {label}"
    return svg(f"fairness-{report.kind}", text, 0.8 + min(_ROW * len(report.fair), _HIGHEST), draw)


def _level(axes: Axes, report: KindReport) -> None:
    for place, row in enumerate(report.fair):
        color = AMBER if row.weakest else BLUE
        axes.plot([0, row.federated], [place, place], color=color, linewidth=1.2)
        axes.plot(row.federated, place, "o", color=color, markersize=7)
        said = f"{row.federated:.2f}{'  weakest' if row.weakest else ''}"
        axes.annotate(said, (row.federated, place), (8, 0), textcoords="offset points", va="center", color=color)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.5, 1])
    axes.set_title(f"{report.measure} of {report.kind}, together")


def _gain(axes: Axes, report: KindReport) -> None:
    for place, row in enumerate(report.fair):
        if row.gain is None:
            continue
        color = AMBER if row.gain.high < 0 else BLUE
        axes.plot([row.gain.low, row.gain.high], [place, place], color=color, linewidth=1.6)
        axes.plot(row.gain.difference, place, "o", color=color, markersize=6)
    axes.axvline(0, color=FAINT, linewidth=1)
    edge = 1.1 * max([abs(e) for row in report.fair if row.gain for e in (row.gain.low, row.gain.high)] + [0.1])
    axes.set_xlim(-edge, edge)
    axes.set_title("together minus alone, 95 % interval")


def learning(kind: Kind, curve: Mapping[str, Sequence[tuple[int, float]]]) -> Markup:
    """F1 after each round: a thin line a test set, and a thick one for their mean."""
    whole = [n for n, _ in next(iter(curve.values()))]
    shared = [n for n in whole if all(n in dict(points) for points in curve.values())]
    mean = [math.fsum(dict(points)[n] for points in curve.values()) / len(curve) for n in shared]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for points in curve.values():
            axes.plot(*zip(*points, strict=True), color=SKY, linewidth=1)
        ends = sorted((points[-1][1], test) for test, points in curve.items())
        heights = [max(end, ends[0][0] + 0.08 * place) for place, (end, _) in enumerate(ends)]
        shift = (sum(heights) - sum(end for end, _ in ends)) / len(ends)
        for (_, test), height in zip(ends, heights, strict=True):  # spread, so that names do not overlap
            place = (max(whole), height - shift)
            axes.annotate(test, place, (8, 0), textcoords="offset points", va="center", color=FAINT)
        axes.plot(shared, mean, color=BLUE, linewidth=2.4, marker="o", markersize=4)
        axes.set_ylim(0, 1)
        _round_axis(axes)
        axes.set_ylabel(f"{MEASURE[kind]} of {kind}{'' if kind == 'titles' else ', strict'}")
        axes.set_title("thick: mean of the test sets")

    said = (
        f"mean {MEASURE[kind]} {mean[0]:.2f} after round {shared[0]}, {mean[-1]:.2f} after round {shared[-1]}"
        if mean
        else ""
    )
    return svg(f"learning-{kind}", f"Scores of the shared adapter from round to round: {said}", 2.6, draw)


def traffic(rounds: Sequence[RoundReport]) -> Markup:
    """Bytes of the busiest site and seconds, by round."""
    numbers = [r.number for r in rounds]
    sent, received = ([getattr(r.traffic, part) for r in rounds] for part in ("sent", "received"))
    unit, divisor = ("MB", 1e6) if max(*sent, *received, 0) >= 1e6 else ("kB", 1e3)

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for values, shift, color, label in ((sent, -0.2, BLUE, "sent"), (received, 0.2, SKY, "received")):
            left.bar([n + shift for n in numbers], [v / divisor for v in values], 0.38, color=color, label=label)
        left.set_title(f"{unit} a site, at most")
        floor = [0.0] * len(rounds)
        for part, color, label in (
            ("training", BLUE, "training"),
            ("summing", SKY, "the sum"),
            ("log", GREY, "the log"),
        ):
            heights = [getattr(r.traffic, part) for r in rounds]
            right.bar(numbers, heights, 0.7, bottom=floor, color=color, label=label)
            floor = [a + b for a, b in zip(floor, heights, strict=True)]
        right.set_title("seconds")
        for axes in (left, right):
            _round_axis(axes)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, handlelength=1, columnspacing=1)

    text = f"At most {max(sent) / divisor:.3g} {unit} sent and {max(received) / divisor:.3g} {unit} received a round"
    return svg("traffic-by-round", text, 2.4, draw)


def _round_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("round")


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Horizontal rows from the top, without a line at their left."""
    if names:
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
