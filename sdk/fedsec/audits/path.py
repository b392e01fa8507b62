"""How far one record moves the clipped sum: the real gradients of the tiny model, extreme records, and their mates.

The noise is sized for one clipping norm C a unit, and C (1 + `SLACK`) with batch-mates. Gradients that depend on who
else is in the batch break that before anything is clipped: a mean over the batch's tokens, for instance, lets one long
answer shrink all of its mates' gradients. So mates here all pull the same way, have short answers and gradients of
20 C, and each crafted record is added to them and taken away again. No chance is involved: dropout is off, and the
noise not yet added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fedsec.audits.crafted import dp_of, tiny_base
from fedsec.audits.outcome import Row, Watch, unseen
from fedsec.data.schema import Example
from fedsec.plan.specs import DpSpec, LoraSpec, TrainingSpec
from fedsec.training.adapter import AdapterState, initial_adapter, seeded_uniform
from fedsec.training.private.loop import Private, PrivateRound
from fedsec.training.private.mechanism import SLACK
from fedsec.training.round import Position

if TYPE_CHECKING:
    import torch

    from fedsec.training.base_model import BaseModel

LORA: Final = LoraSpec(
    rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
)
SPEC: Final = TrainingSpec(batch_size=8, threads=1, max_tokens=200)
_MATES: Final = 7
_PULL: Final = 20
"""Of a mate's gradient, in clipping norms."""
_MARK = "\x7f"
"""Where it stands in a note, activations are what `_marked` says."""


@dataclass(frozen=True)
class Extreme:
    """A unit that somebody crafted: one or more examples, and what `_MARK` in them is multiplied by, if anything."""

    name: str
    examples: tuple[Example, ...]
    factor: float | None = None


def extremes() -> list[Extreme]:
    """Every kind, each with as many tokens as its mates where its name does not say otherwise."""
    return [
        Extreme("like its mates", (_example("c", "Took aspirin twice. ", "x"),)),
        Extreme("a long answer", (_example("c", "", "aspirin | Drug\n" * 10),)),
        Extreme("no answer", (_example("c", "Nothing here. ", ""),)),
        Extreme("one letter repeated", (_example("c", "z" * 140, "z"),)),
        Extreme("over max_tokens", (_example("c", "word " * 380, "aspirin | Drug\n" * 6, padded=False),)),
        Extreme("activations of 10^15", (_example("c", _MARK * 9, "x"),), 1e15),
        Extreme("not finite", (_example("c", _MARK * 9, "x"),), math.inf),
        Extreme("a patient of 40 notes", tuple(_example("c", f"Note {i}. ", "aspirin " * (i % 12)) for i in range(40))),
    ]


def audit(watch: Watch = unseen) -> list[Row]:
    """One row for each crafted unit."""
    found, chosen, base = [], extremes(), tiny_base()
    for done, extreme in enumerate(chosen, start=1):
        found.append(_row(base, extreme))
        watch("crafted records through the model", done, len(chosen))
    return found


def _row(base: BaseModel, extreme: Extreme) -> Row:
    alone, moved = _moved(base, extreme)
    most = 1 + float(SLACK)
    return Row(
        f"one unit: {extreme.name}",
        f"moves ≤ {most:.4f} C",
        f"{moved:.4f} C, alone {alone:.4f} C",
        alone <= most and moved <= most,  # each by itself: beside what is no number max() has no meaning
        {"alone": alone, "moved": moved},
    )


def _moved(base: BaseModel, extreme: Extreme) -> tuple[float, float]:
    """By how many clipping norms the unit moves an empty sum, and that of its mates."""
    mates = [_example(f"m{i}", f"Took aspirin 5 mg {i}. ", "y") for i in range(_MATES)]
    examples = [*extreme.examples, *mates]
    with _marked(base, extreme.factor):
        (one,) = _sums(base, examples, 1e6, [[1]])
        clip = _norm(one) / _PULL
        everyone = range(1, _MATES + 1)
        alone, without, whole = _sums(base, examples, clip, [[0], list(everyone), [0, *everyone]])
    return _norm(alone) / clip, _norm({name: whole[name] - without[name] for name in whole}) / clip


def _sums(base: BaseModel, examples: Sequence[Example], clip: float, draws: list[list[int]]) -> list[dict[str, Any]]:
    """The clipped sum over each draw of units, in the order of first appearance of their patients."""
    dp: DpSpec = dp_of(1.0, 1.0, 1, 1e-5, unit="patient", clipping_norm=clip, max_records=4)
    run = PrivateRound(base, _anywhere(base), examples, SPEC, LORA, Private(dp), Position(0, 1))
    with run.started():
        return [run.gradients.clipped_sum([run._records_of(run.units[i]) for i in draw])[0] for draw in draws]


def _anywhere(base: BaseModel) -> AdapterState:
    """An adapter of which both factors have gradients."""
    start = initial_adapter(base, LORA, 0)
    moved = {name: seeded_uniform(name.encode(), value.shape, 0.3) for name, value in start.items() if "lora_B" in name}
    return AdapterState(dict(start) | moved)


@contextmanager
def _marked(base: BaseModel, factor: float | None) -> Iterator[None]:
    """Inside, the embedding of `_MARK` is multiplied by ``factor``: a model in which one letter breaks a record."""
    if factor is None:
        yield
        return
    (mark,) = base.tokenizer(_MARK, add_special_tokens=False)["input_ids"]

    def scale(_: object, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return out.where((inputs[0] != mark)[..., None], out * factor)

    hook = base.model.get_input_embeddings().register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()


def _norm(tensors: dict[str, Any]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors.values()))


def _example(patient: str, text: str, answer: str, padded: bool = True) -> Example:
    """``padded``: to the same number of tokens, whatever is written there, so that it shares a batch with its mates."""
    note = f"{text}{'Seen again as before. ' * 10}"[: 160 - len(answer)] if padded else text
    return Example(
        example_id=patient, document_id=patient, patient_id=patient, text=note, offset=0, entities=(), relations=None,
        prompt=note or "?", answer=answer,
    )  # fmt: skip
