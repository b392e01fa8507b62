"""Units of several examples: a patient's mean, clipped once, or its examples one by one, each clipped."""

from __future__ import annotations

from collections import Counter

from fedsec.privacy.accountant import steps_of
from fedsec.training.private.clipping import clip_and_sum
from fedsec.training.private.loop import Private, PrivateRound, units_of
from fedsec.training.round import Position
from tests.unit.training.conftest import LORA, make_examples
from tests.unit.training.private_steps import DP, SPEC, changed, distance, sums_of


def test_units_are_examples_or_patients():
    examples = [e.model_copy(update={"patient_id": f"p{i % 3}"}) for i, e in enumerate(make_examples(7))]
    assert units_of(examples, "record") == [[0], [1], [2], [3], [4], [5], [6]]
    assert units_of(examples, "patient") == [[0, 3, 6], [1, 4], [2, 5]]


def test_a_patient_s_gradient_is_the_mean_of_its_examples_clipped_once(quiet, drawing, tiny, start):
    lengths = (1, 4, 2, 3)  # two widths, so that a patient's examples lie in several batches
    examples = [
        e.model_copy(update={"patient_id": "one", "answer": "drug | Drug\n" * n})
        for e, n in zip(make_examples(4), lengths, strict=True)
    ]
    plain = LORA.model_copy(update={"dropout": 0.0})
    alone = sums_of(
        quiet,
        drawing,
        tiny,
        start,
        examples,
        [0],
        [1],
        [2],
        [3],
        private=changed(steps=1, clipping_norm=1e5),
        lora=plain,
    )
    for bound, most in ((1e5, 4), (1e-2, 4)):
        private = changed(steps=1, unit="patient", clipping_norm=bound, max_records=most)
        (found,) = sums_of(quiet, drawing, tiny, start, examples, [0], private=private, lora=plain)
        mean = {n: (sum(one[n] for one in alone) / 4).float() for n in found}
        expected = clip_and_sum({n: t[None] for n, t in mean.items()}, bound).total
        assert distance(found, expected) < 1e-6 * bound + 1e-6


def test_at_most_k_of_a_patient_s_examples_enter_and_all_have_their_turn(tiny, start):
    examples = [e.model_copy(update={"patient_id": "one"}) for e in make_examples(5)]
    dp = DP.model_copy(update={"unit": "patient", "max_records": 2})
    round_ = PrivateRound(tiny, start, examples, SPEC, LORA, Private(dp), Position(0, 1))
    chosen = [tuple(round_._records_of([0, 1, 2, 3, 4])) for _ in range(500)]
    assert all(len(set(pair)) == 2 for pair in chosen)
    counts = Counter(i for pair in chosen for i in pair)
    assert set(counts) == set(range(5))
    assert min(counts.values()) > 100  # 200 expected; nine deviations below
    assert round_._records_of([3, 1]) == [3, 1]


def test_examples_of_a_patient_drawn_one_by_one_are_the_same_few_each_clipped(tiny, start):
    """Of eight examples of one patient and one of another: at most three, whatever the order and who else is there."""
    examples = [e.model_copy(update={"patient_id": "one"}) for e in make_examples(8)]
    other = make_examples(9)[8]
    dp = DP.model_copy(update={"unit": "patient", "sampling": "record", "max_records": 3, "sampling_rate": 1.0})

    def used(given):
        round_ = PrivateRound(tiny, start, given, SPEC, LORA, Private(dp), Position(0, 1))
        assert round_.planned.event == steps_of(1.0, dp.noise_multiplier, dp.steps, 3)
        drawn = round_.drawn()
        assert all(len(unit) == 1 for unit in drawn)
        return sorted(given[i].example_id for (i,) in drawn)

    mine = used(examples)
    assert len(mine) == 3
    assert used(examples[::-1]) == mine
    assert used([other, *examples]) == sorted([other.example_id, *mine])
