"""One of five like sites is poisoned: what influence weights help, and what a server that sees updates could do.

UNPROTECTED: all sums but that of `no attack: uniform`, a masked run, are computed from updates that this process keeps,
on a public corpus. What masked runs give is the same within the rounding that the experiment in_domain measures. Median
and Krum need every single update: they are what hiding the updates costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from fedsec.data.schema import Example
from fedsec.evaluation.loss import mean_loss
from fedsec.evaluation.scores import Scores
from fedsec.report.drawing import LINE
from fedsec.training.adapter import AdapterState, Float32Array
from fedsec.training.strategies import apply_update, local_update
from suite.aggregate import influence, krum, mean, median
from suite.experiment import Experiment
from suite.federated import UNIFORM, deal_examples, federate, records_of, site_spec
from suite.lab import Lab, vector_norm
from suite.plots import COLOURS, legend
from suite.rows import (
    ALL,
    MEASURE,
    NAN,
    Cell,
    Claim,
    Row,
    claim_table,
    difference_rows,
    difference_table,
    direction,
    f1_rows,
    f1_table,
    ordered,
    select,
    told,
    with_interval,
)
from suite.settings import Scale

NAME = "poisoned"
SITES, STRENGTH = 5, 4.0
NONE, LABELS, RANDOM, FLIPPED, LYING = (
    "no attack",
    "labels shuffled",
    "random update",
    "sign flipped",
    "sign flipped, lies",
)
INFLUENCE, MEDIAN, KRUM, REMOVED = "influence", "median", "Krum", "site removed"
HIDDEN, SEEN = (UNIFORM, INFLUENCE), (MEDIAN, KRUM)
SHARE = "share of the poisoned site"
_SPLIT = ": "


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell an attack and rule. The first round's honest updates are the same in all."""
    found = []
    for seed in seeds:
        pairs = [(attack, rule) for attack in (NONE, FLIPPED, LABELS, RANDOM) for rule in (*HIDDEN, *SEEN)]
        pairs += [(FLIPPED, REMOVED), (LYING, INFLUENCE)]
        for attack, rule in pairs:
            name = f"{NAME}/{attack}-{rule}-s{seed}".replace(", ", "-").replace(" ", "-")
            own = scale.pool if (attack, rule) == (NONE, UNIFORM) else scale.pool // 2
            found.append(Cell(name, seed, partial(_pair, attack, rule, name, seed), own, scale.test))
        for attack in (LABELS, RANDOM, FLIPPED, LYING):
            name = f"{NAME}/compare-{attack}-s{seed}".replace(", ", "-").replace(" ", "-")
            found.append(Cell(name, seed, partial(_compare, attack, name, seed)))
    return found


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Every example with the answer of another one."""
    order = np.random.default_rng([0xBAD, seed]).permutation(len(examples))
    moved = dict(zip(order, np.roll(order, 1), strict=True))  # one cycle: nobody keeps its own
    return [e.model_copy(update={"answer": examples[moved[i]].answer}) for i, e in enumerate(examples)]


def attacked(update: Float32Array, attack: str, seed: int) -> Float32Array:
    """What the poisoned site hands in for its honest update: `STRENGTH` times as long, and backwards or random."""
    if attack in (FLIPPED, LYING):
        return (-STRENGTH * update).astype(np.float32)
    if attack == RANDOM:
        noise = np.random.default_rng([0xBAD, seed]).standard_normal(update.size, np.float32)
        return (noise * np.float32(STRENGTH * vector_norm(update) / vector_norm(noise))).astype(np.float32)
    return update


def rounds(lab: Lab, attack: str, rule: str, seed: int) -> Iterator[tuple[AdapterState, float]]:
    """After each round: the adapter, and the poisoned site's share of the sum (not a number where there are none)."""
    name = f"pool-{SITES}"
    if (attack, rule) == (NONE, UNIFORM):  # the masked run of the experiment sites
        yield from ((one.end, 1 / SITES) for one in federate(lab, name, UNIFORM, seed).rounds)
        return
    deal, draft = lab.notes.deal(name, seed), lab.draft
    examples, bad = deal_examples(lab, deal), min(deal)
    if attack == LABELS:
        examples[bad] = shuffled(examples[bad], seed)
    spec, state = site_spec(lab, records_of(deal)), lab.initial(seed)
    for index in range(draft.rounds):
        updates = {}
        for site, some in examples.items():
            after = lab.train(state, some, site, round_index=index, rounds=draft.rounds, seed=seed, spec=spec)
            updates[site] = local_update(draft.lora.strategy, state, after, index)
        updates[bad] = attacked(updates[bad], attack, 1000 * seed + index)
        combined, share = _combined(lab, state, index, updates, rule, bad, attack == LYING)
        state = apply_update(draft.lora.strategy, state, combined, index)
        yield state, share


def _combined(
    lab: Lab, start: AdapterState, index: int, updates: dict[str, Float32Array], rule: str, bad: str, lies: bool
) -> tuple[Float32Array, float]:
    clip, some = lab.draft.secure.clip, list(updates.values())
    if rule == REMOVED:
        honest = [update for site, update in updates.items() if site != bad]
        return mean(honest, [1.0] * len(honest), clip), 0.0
    if rule == MEDIAN:
        return median(some), NAN
    if rule == KRUM:
        chosen = krum(some, 1)
        return some[chosen], float(list(updates)[chosen] == bad)
    shares = [1 / len(some)] * len(some)
    if rule == INFLUENCE:
        records, strategy = lab.validation(lab.scale.validation), lab.draft.lora.strategy
        alone = {site: apply_update(strategy, start, update, index) for site, update in updates.items()}
        losses = [
            0.0 if lies and site == bad else mean_loss(lab.losses(adapter, records)) for site, adapter in alone.items()
        ]
        shares = influence(losses, lab.draft.weighting.cap).tolist()
    return mean(some, shares, clip), shares[list(updates).index(bad)]


def _scores(lab: Lab, attack: str, rule: str, seed: int) -> dict[str, Scores]:
    *_, (adapter, _) = rounds(lab, attack, rule, seed)
    return lab.scores(adapter, [lab.test(lab.notes.pool)])


def _pair(attack: str, rule: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from f1_rows(cell, seed, attack + _SPLIT + rule, _scores(lab, attack, rule, seed))
    for index, (_, share) in enumerate(rounds(lab, attack, rule, seed), start=1):
        if not math.isnan(share):
            yield Row(cell, seed, attack + _SPLIT + rule, index, "", SHARE, share)


def _compare(attack: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    """To a rule that looks at no score a site that lies is one that sends its update backwards."""
    sent = FLIPPED if attack == LYING else attack
    plain, weighed = _scores(lab, sent, UNIFORM, seed), _scores(lab, attack, INFLUENCE, seed)
    yield from difference_rows(cell, seed, f"{attack}: {INFLUENCE} − {UNIFORM}", weighed, plain)
    for rule in SEEN:
        seen = _scores(lab, sent, rule, seed)
        yield from difference_rows(cell, seed, f"{attack}: {rule} − {INFLUENCE}", seen, weighed)


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA+ is meant for sites of unlike quality; its server looks at every update, and scores it itself."""
    for attack in (LABELS, RANDOM, FLIPPED):
        gain = select(rows, system=f"{attack}: {INFLUENCE} − {UNIFORM}", measure=MEASURE)
        if gain:
            yield Claim(
                "influence weights hold poor sites down", f"{attack}, entities, strict: {told(gain)}", direction(gain)
            )
    calm, broken = (
        select(rows, system=f"{attack}{_SPLIT}{INFLUENCE}", measure=MEASURE, test=ALL) for attack in (NONE, LYING)
    )
    if calm and broken:
        words = (
            f"a site that scores itself, and lies: F1 {broken[0].value:.3f}, of {calm[0].value:.3f} without an attack, "
            "below the cap on its weight"
        )
        yield Claim("influence weights hold poor sites down", words, False if broken[0].value < calm[0].value else None)


def hidden_cost(rows: Sequence[Row]) -> Iterator[str]:
    """The coordinate median, which sees updates, over influence weights, which do not."""
    for attack in (LABELS, RANDOM, FLIPPED, LYING):
        for row in select(rows, system=f"{attack}: {MEDIAN} − {INFLUENCE}", measure=MEASURE):
            shown = {True: "it costs", False: "it costs nothing", None: "no cost that these sentences show"}
            yield f"- {attack}: {MEDIAN} − {INFLUENCE}, {MEASURE}: {with_interval(row)}: {shown[direction([row])]}"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """F1 by attack and rule, shares, and differences."""
    yield from (*claim_table(claims(rows)), "")
    yield (
        f"{UNIFORM} and {INFLUENCE} are what a masked sum gives; {MEDIAN}, {KRUM} and '{REMOVED}' need the single "
        "updates and are **unprotected** comparisons. Krum takes one site's update, and took the same honest one under "
        "every attack."
    )
    yield from ("", "## What it costs that updates are hidden", "", *hidden_cost(rows))
    for measure in (MEASURE, "entities lenient F1", "relations strict F1"):
        if select(rows, measure=measure):
            yield from ("", f"## {measure}", "", *f1_table(rows, measure))
    shares = select(rows, measure=SHARE)
    yield from ("", f"## {SHARE.capitalize()} by round", "")
    for system in ordered(r.system for r in shares):
        values = ", ".join(f"{r.value:.3f}" for r in sorted(select(shares, system=system), key=lambda r: r.x))
        yield f"- {system}: {values}"
    yield from ("", "## Differences", "", *difference_table(rows))


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Strict F1 by attack, a mark a rule."""
    some = [r for r in select(rows, measure=MEASURE, test="all") if _SPLIT in r.system and math.isnan(r.low)]
    if not some:
        return False
    attacks = [a for a in (NONE, LABELS, RANDOM, FLIPPED, LYING) if any(r.system.startswith(a + _SPLIT) for r in some)]
    axis = figure.subplots()
    rules = [(UNIFORM, "o"), (INFLUENCE, "D"), (MEDIAN, "^"), (KRUM, "s"), (REMOVED, "x")]
    for place, ((rule, mark), colour) in enumerate(zip(rules, COLOURS, strict=False)):
        found = [(n, r.value) for n, a in enumerate(attacks) for r in select(some, system=a + _SPLIT + rule)]
        label = f"{rule} (masked sum)" if rule in HIDDEN else f"{rule} (sees updates)"
        at = [n + 0.11 * (place - 2) for n, _ in found]
        axis.plot(at, [value for _, value in found], mark, color=colour, label=label, markersize=6)
    axis.set_xticks(range(len(attacks)), attacks)
    axis.set_xlim(-0.5, len(attacks) - 0.5)
    axis.set_ylim(bottom=-0.02)
    axis.set_title(MEASURE)
    axis.grid(axis="y", color=LINE, linewidth=0.5)
    legend(figure, [axis])
    return True


EXPERIMENT = Experiment(NAME, "A poisoned site among five", 1, cells, summary, draw, (7.4, 3.4))
