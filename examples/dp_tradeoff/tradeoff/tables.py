"""summary.md: means over seeds with the lowest and highest, mode beside mode and one by one, what is kept of F1, and
distributed minus local.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from cells.markdown import markdown, spread

from fedsec.study.results import ZERO_SHOT
from tradeoff.cells import DISTRIBUTED, LOCAL, MODES, NONE, RATES, RECORD, STRATEGIES
from tradeoff.measure import Row


class Setting(NamedTuple):
    """What a group of rows shares: everything but mode, epsilon and seed. ``unit`` is empty for mode none."""

    strategy: str
    sites: int
    unit: str
    rate: float
    """Learning rate, over that of strategy and mode."""

    def words(self, usual: Setting) -> str:
        """What differs from the study's usual setting."""
        found = [self.strategy] if self.strategy != usual.strategy else []
        found += [f"{self.sites} sites"] if self.sites != usual.sites else []
        found += ["patients"] if self.unit != usual.unit else []
        found += [f"learning rate × {times(self.rate)}"] if self.rate != usual.rate else []
        return ", ".join(found) or "the main grid"


Group = tuple[Setting, str, float]


def times(rate: float) -> str:
    """2, or 1/8."""
    return str(Fraction(rate).limit_denominator(1000))


def setting_of(row: Row) -> Setting:
    """A row of mode none counts to the setting of records."""
    return Setting(row.strategy, row.sites, row.unit or RECORD, row.rate / RATES[row.strategy][row.mode])


def usual_of(rows: Iterable[Row]) -> Setting | None:
    """The setting of the curves: that of most rows with their learning rates. None for no trained row."""
    counts = Counter(setting_of(row) for row in rows if row.mode != ZERO_SHOT)
    return max(sorted(counts), key=lambda setting: (setting.rate == 1, counts[setting]), default=None)


def groups_of(rows: Sequence[Row]) -> dict[Group, list[Row]]:
    """Trained rows by (setting, mode, epsilon), those of all seeds together, in the order of the table."""
    usual = usual_of(rows)
    found: defaultdict[Group, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r.seed):
        if row.mode != ZERO_SHOT:
            found[setting_of(row), row.mode, row.epsilon].append(row)

    def place(group: Group) -> tuple[object, ...]:
        setting, mode, epsilon = group
        return (setting != usual, setting, -epsilon, MODES.index(mode))

    return dict(sorted(found.items(), key=lambda item: place(item[0])))


def kept(rows: Sequence[Row], groups: Mapping[Group, Sequence[Row]]) -> float | None:
    """Mean F1 over that without privacy, same strategy, number of sites and seeds, at its rate; None without them."""
    setting = setting_of(rows[0])._replace(unit=RECORD, rate=1.0)
    plain = {row.seed: row.f1 for row in groups.get((setting, NONE, math.inf), ())}
    common = [row for row in rows if row.seed in plain]
    total = sum(plain[row.seed] for row in common)
    return sum(row.f1 for row in common) / total if total else None


def by_mode(head: str, lines: Mapping[str, Mapping[str, Sequence[Row]]]) -> list[str]:
    """Loss and strict F1 of the modes side by side; ``lines``: the rows of each mode, by what stands first."""
    modes = [mode for mode in (LOCAL, DISTRIBUTED, NONE) if any(rows.get(mode) for rows in lines.values())]
    names = ["no privacy" if mode == NONE else mode for mode in modes]
    found = [
        [
            label,
            *(spread([row.loss for row in rows.get(mode, ())]) for mode in modes),
            *(spread([row.f1 for row in rows.get(mode, ())]) for mode in modes),
        ]
        for label, rows in lines.items()
    ]
    return markdown([head, *(f"{name}, nats" for name in names), *(f"{name}, F1" for name in names)], found)


def curve_table(groups: Mapping[Group, Sequence[Row]], usual: Setting) -> list[str]:
    """The usual setting, one line an epsilon."""
    epsilons = sorted({epsilon for setting, _, epsilon in groups if setting == usual})
    lines = {_epsilon(e): {mode: groups.get((usual, mode, e), ()) for mode in MODES} for e in epsilons}
    return by_mode("ε", lines)


def settings_table(groups: Mapping[Group, Sequence[Row]], usual: Setting, epsilon: float) -> list[str]:
    """Other settings at their learning rates, and the usual one with the same seeds, one line each."""
    others = [s for s in dict.fromkeys(s for s, _, e in groups if e == epsilon) if s != usual and s.rate == 1]
    if not others:
        return []
    seeds = {row.seed for s in others for mode in MODES for row in groups.get((s, mode, epsilon), ())}
    lines = {
        f"{s.strategy}, {s.sites} sites, {s.unit}s" if s == usual else s.words(usual): {
            NONE: _of(seeds, groups.get((s._replace(unit=RECORD), NONE, math.inf), ())),
            **{mode: _of(seeds, groups.get((s, mode, epsilon), ())) for mode in (LOCAL, DISTRIBUTED)},
        }
        for s in (usual, *others)
    }
    return by_mode("setting", lines)


def rates_table(rows: Sequence[Row], usual: Setting, epsilon: float, strategy: str) -> list[str]:
    """The first seed of the usual setting with this strategy, one line a learning rate; nothing for one rate alone."""
    found: defaultdict[float, dict[str, Sequence[Row]]] = defaultdict(dict)
    first = min(row.seed for row in rows if row.mode != ZERO_SHOT)
    for row in rows:
        if row.mode not in MODES or row.seed != first:
            continue
        of_setting = setting_of(row)._replace(rate=usual.rate) == usual._replace(strategy=strategy)
        if of_setting and row.epsilon == (math.inf if row.mode == NONE else epsilon):
            found[row.rate][row.mode] = [row]
    if len(found) < 2:
        return []
    return by_mode("learning rate", {f"× {times(rate)}": found[rate] for rate in sorted(found)})


def _of(seeds: Collection[int], rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.seed in seeds]


def score_table(groups: Mapping[Group, Sequence[Row]], usual: Setting) -> list[str]:
    """One line a setting, mode and epsilon."""
    head = ["setting", "mode", "ε, target", "ε, reported", "noise z", "noise in the mean", "seeds", "loss"]
    head += ["F1, strict", "F1, lenient", "F1 kept"]
    lines = []
    for (setting, mode, epsilon), rows in groups.items():
        share = kept(rows, groups)
        line = (
            setting.words(usual),
            mode,
            _epsilon(epsilon),
            _epsilon(rows[0].epsilon_pld),
            f"{rows[0].noise_multiplier:.3f}" if mode != NONE else "–",
            f"{rows[0].noise_in_mean:.1f}" if mode != NONE else "–",
            str(len(rows)),
            spread([row.loss for row in rows]),
            spread([row.f1 for row in rows]),
            spread([row.f1_lenient for row in rows]),
            "–" if share is None else f"{share:.0%}",
        )
        lines.append(line)
    return markdown(head, lines, words=2)


def difference_table(groups: Mapping[Group, Sequence[Row]], usual: Setting) -> list[str]:
    """Distributed minus local, seed by seed."""
    lines = []
    for (setting, mode, epsilon), rows in groups.items():
        local = {row.seed: row for row in groups.get((setting, LOCAL, epsilon), ())}
        pairs = [(row, local[row.seed]) for row in rows if mode == DISTRIBUTED and row.seed in local]
        if pairs:
            losses, f1s = [a.loss - b.loss for a, b in pairs], [a.f1 - b.f1 for a, b in pairs]
            line = [setting.words(usual), _epsilon(epsilon), str(len(pairs))]
            lines.append([*line, spread(losses, sign="+"), spread(f1s, sign="+")])
    return markdown(["setting", "ε", "seeds", "loss", "F1, strict"], lines)


def _epsilon(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of summary.md."""
    groups, usual = groups_of(rows), usual_of(rows)
    if usual is None:
        yield "No run is finished."
        return
    first = next(iter(groups.values()))[0]
    seeds = sorted({row.seed for some in groups.values() for row in some})
    runs = sum(map(len, groups.values()))
    yield f"{runs} runs, seeds {', '.join(map(str, seeds))}; mean over seeds (lowest to highest)."
    yield f"Loss in nats per answer token over {first.loss_sentences} test sentences, F1 over {first.f1_sentences}."
    for row in rows:
        if row.mode == ZERO_SHOT:
            yield f"Untrained: loss {row.loss:.3f}, F1 {row.f1:.3f} strict, {row.f1_lenient:.3f} lenient."
    yield from ("", "## By ε", "", *curve_table(groups, usual))
    most = max((epsilon for _, mode, epsilon in groups if mode != NONE), default=math.inf)
    if others := settings_table(groups, usual, most):
        yield from ("", f"## Other settings, ε = {_epsilon(most)}", "", *others)
    for strategy in STRATEGIES:
        if rates := rates_table(rows, usual, most, strategy):
            yield from ("", f"## Learning rates of {strategy}, ε = {_epsilon(most)}, seed {seeds[0]}", "", *rates)
    yield from ("", "## All", "", *score_table(groups, usual))
    yield from ("", "## Distributed minus local, same seed", "", *difference_table(groups, usual))
