"""Bytes of a LoRA update against the full weights: computed from shapes, and measured in a masked run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import cast

from cells.markdown import markdown
from matplotlib.figure import Figure

from fedsec.report.drawing import AMBER, BLUE, LINE
from fedsec.training.strategies import shared_vector
from fedsec.wire import sum_parameters
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.numeric.lanes import FixedPoint, Lanes
from suite.experiment import Experiment
from suite.lab import Lab
from suite.plots import legend
from suite.rows import NAN, Cell, Claim, Row, claim_table, ordered, select
from suite.settings import Scale
from suite.systems import FED, federated

NAME = "communication"
LORA, FULL, LESS, COUNT = "LoRA update, bytes", "full weights, bytes", "less than the full weights", "LoRA parameters"
UP, DOWN, OVERHEAD = "up, bytes a site and round", "down, bytes a site and round", "masked over plain"
_FLOAT32, _BFLOAT16 = 4, 2
_PUBLISHED = 0.985
BOTH = "measured, up and down"
"""Against full weights in both directions. Down goes the adapter as float32, and the sum that a site checks."""
_ONCE = "attest"
"""The exchange that a run has once, and not in every round."""


@dataclass(frozen=True)
class Shapes:
    """A decoder of the Llama family, by its published configuration."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the linear layers of a block: q, k, v, o, gate, up, down."""
        attention, keys = self.heads * self.head, self.kv_heads * self.head
        inner = ((self.hidden, attention), (self.hidden, keys), (self.hidden, keys), (attention, self.hidden))
        return (*inner, (self.hidden, self.mlp), (self.hidden, self.mlp), (self.mlp, self.hidden))

    @property
    def parameters(self) -> int:
        """All weights: blocks with two norms each, embeddings, the last norm, and the head where it is not tied."""
        block = sum(a * b for a, b in self.linear) + 2 * self.hidden
        return self.layers * block + self.hidden + self.hidden * self.vocabulary * (1 if self.tied else 2)

    def lora(self, rank: int) -> int:
        """Trained parameters with LoRA of this rank on all linear layers: rank times (in + out) for each."""
        return self.layers * rank * sum(a + b for a, b in self.linear)


LLAMA_8B = Shapes("Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336, 128256, tied=False)
SMOLLM2 = Shapes("smollm2-135m", 576, 30, 9, 3, 64, 1536, 49152, tied=True)
PUBLISHED_RANK, CLIP, RING, SITE_COUNT = 16, 0.5, "3x21", 5


def masked_bytes(length: int) -> int:
    """Of a masked upload of so many coordinates, five sites, in the plan's usual ring."""
    fixed = FixedPoint.choose(Lanes.named(RING), SITE_COUNT, CLIP)
    return SumParameters(fixed, length, 1, hidden_weight=False).masked_bytes


def shape_rows(cell: str, seed: int, shapes: Shapes) -> Iterator[Row]:
    """What travels, three ways, against full weights in the type that they are published in (bfloat16)."""
    lora, full = shapes.lora(PUBLISHED_RANK), shapes.parameters * _BFLOAT16
    yield Row(cell, seed, shapes.name, NAN, "", COUNT, lora)
    yield Row(cell, seed, shapes.name, NAN, "", FULL, full)
    ways = {
        "by parameters": (lora, shapes.parameters),
        "float32": (lora * _FLOAT32, full),
        "masked words": (masked_bytes(lora), full),
    }
    for way, (part, whole) in ways.items():
        yield Row(cell, seed, shapes.name, NAN, way, LORA, part)
        yield Row(cell, seed, shapes.name, NAN, way, LESS, 1 - part / whole)


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """What shapes say, and what a run's log says."""
    found = []
    for seed in seeds:
        for what, measure in (("shapes", _shapes), ("measured", _measured)):
            name = f"{NAME}/{what}-s{seed}"
            found.append(Cell(name, seed, partial(measure, name, seed)))
    return found


def _shapes(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    for shapes in (LLAMA_8B, SMOLLM2):
        yield from shape_rows(cell, seed, shapes)


def _measured(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    """The bytes of every exchange of the masked run, as its log has them, and what plain float32 would be."""
    run = federated(lab, FED, seed)
    plan, adapter = run.folder.plan, run.adapter
    full = sum(p.numel() for name, p in lab.models.base.model.named_parameters() if "lora_" not in name)
    moved = traffic(run.folder.events())
    length = shared_vector(plan.lora.strategy, adapter, 0).size
    yield Row(cell, seed, plan.model.base, NAN, "", COUNT, length)
    yield Row(cell, seed, plan.model.base, NAN, "", FULL, full * _BFLOAT16)
    for exchange, (up, down) in moved.items():
        yield Row(cell, seed, plan.model.base, NAN, exchange, UP, up)
        yield Row(cell, seed, plan.model.base, NAN, exchange, DOWN, down)
    up = sum(u for name, (u, _) in moved.items() if name != _ONCE)
    yield Row(cell, seed, plan.model.base, NAN, "measured, masked", LORA, up)
    yield Row(cell, seed, plan.model.base, NAN, "measured, masked", LESS, 1 - up / (full * _BFLOAT16))
    both = up + sum(d for name, (_, d) in moved.items() if name != _ONCE)
    yield Row(cell, seed, plan.model.base, NAN, BOTH, LORA, both)
    yield Row(cell, seed, plan.model.base, NAN, BOTH, LESS, 1 - both / (2 * full * _BFLOAT16))
    same = sum_parameters(plan, length).words * 8  # without masks the same integers travel, in the open
    yield Row(cell, seed, plan.model.base, NAN, "the same integers in the open", OVERHEAD, up / same - 1)
    yield Row(cell, seed, plan.model.base, NAN, "float32", OVERHEAD, up / (length * _FLOAT32) - 1)


def traffic(events: Sequence[Mapping[str, object]]) -> dict[str, tuple[float, float]]:
    """Exchange -> (bytes up, bytes down) of a site and round: the mean over sites and rounds."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for event in events:
        if event["event"] != "exchange":
            continue
        up, down = found.setdefault(str(event["exchange"]), ([], []))
        up.extend(cast("Mapping[str, int]", event["bytes_up"]).values())
        down.extend(cast("Mapping[str, int]", event["bytes_down"]).values())
    return {name: (fmean(up), fmean(down)) for name, (up, down) in found.items() if up and down}


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124, and what its shapes come to."""
    some = select(rows, system=LLAMA_8B.name, measure=LESS)
    if not some:
        return
    words = ", ".join(f"{r.test} {r.value:.1%}" for r in some)
    agrees = all(r.value >= _PUBLISHED for r in some)
    yield Claim("98.5 % less communication (8B, r = 16, all linear)", f"from its shapes: {words}", agrees)
    (count,) = select(rows, system=LLAMA_8B.name, measure=COUNT)
    yield Claim(
        "about 42M trained parameters", f"from its shapes: {count.value / 1e6:.1f}M", round(count.value / 1e6) == 42
    )
    here = [r for r in select(rows, measure=LESS) if r.cell.endswith(f"measured-s{r.seed}")]
    if here:
        words = ", ".join(f"{r.test} {r.value:.1%}" for r in here)
        yield Claim(
            "98.5 % less communication (8B, r = 16, all linear)",
            f"at {here[0].system}, measured: {words}; of a small model LoRA is a larger part",
            None,
        )


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Bytes, and the measured exchanges."""
    yield from (*claim_table(claims(rows)), "")
    sizes = [r for r in select(rows, measure=LORA) if r.test != "by parameters"]
    less = [select(rows, cell=r.cell, system=r.system, test=r.test, measure=LESS)[0] for r in sizes]
    yield from markdown(
        ["model", "what travels", "bytes", "less than bfloat16 weights the same way"],
        ([r.system, r.test, f"{r.value:,.0f}", f"{share.value:.2%}"] for r, share in zip(sizes, less, strict=True)),
    )
    yield ""
    for r in select(rows, measure=OVERHEAD):
        yield f"- {r.system}: all that a site uploads in a masked round is {r.value:+.2%} of {r.test}"
    ups, downs = select(rows, measure=UP), select(rows, measure=DOWN)
    yield from ("", "## A masked round, exchange by exchange", "")
    yield from markdown(
        ["exchange", UP, DOWN],
        ([u.test, f"{u.value:,.0f}", f"{d.value:,.0f}"] for u, d in zip(ups, downs, strict=True)),
    )


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Bytes on a logarithmic scale."""
    models = ordered(r.system for r in select(rows, measure=FULL))
    if not models:
        return False
    axis = figure.subplots()
    for place, model in enumerate(models):
        full = select(rows, system=model, measure=FULL)[0].value
        axis.plot([full], [place], "s", color=AMBER, markersize=7, label="full weights, bfloat16")
        for way, mark in (("float32", "o"), ("masked words", "D"), ("measured, masked", "x")):
            for r in select(rows, system=model, measure=LORA, test=way):
                axis.plot([r.value], [place], mark, color=BLUE, markersize=6, label=f"LoRA update, {way}")
    axis.set_xscale("log")
    axis.set_xlabel("bytes that a site uploads in a round")
    axis.set_yticks(range(len(models)), models)
    axis.set_ylim(len(models) - 0.5, -0.5)
    axis.grid(axis="x", color=LINE, linewidth=0.5)
    legend(figure, [axis], 2)
    return True


EXPERIMENT = Experiment(NAME, "Communication", 1, cells, summary, draw, (7.4, 2.6))
