"""Exposure: of an adapter that knows its canaries by heart, and of one that never saw them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedsec.audits.crafted import tiny_base
from fedsec.data.canaries import Canary, draw_canaries, planted
from fedsec.evaluation.exposure import _log_perplexities, exposure_of, exposures
from fedsec.plan.canaries import CHANCE, highest, no_memory_stays_below
from fedsec.plan.specs import CanarySpec, LoraSpec, TrainingSpec
from fedsec.training.adapter import initial_adapter
from fedsec.training.batches import encode
from fedsec.training.loop import train_round
from fedsec.training.lora import use_adapter
from fedsec_secure.errors import ConfigError
from fedsec_secure.secrets import SecretBytes

LORA = LoraSpec(
    rank=8, alpha=16.0, dropout=0.0,
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)  # fmt: skip
SPEC = TrainingSpec(
    learning_rate=1e-2, batch_size=4, epochs=60, threads=1, max_tokens=64, warmup_fraction=0.0, schedule="constant"
)


def make_canaries(count: int, candidates: int, seed: int = 0) -> list[Canary]:
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        drawn = generator.choice(10**6, candidates + 1, replace=False)
        answers = [f"{value:06d}" for value in drawn]
        found.append(Canary(f"Room of patient {number}: ", answers[0], tuple(answers[1:])))
    return found


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def test_what_was_learnt_by_heart_is_fully_exposed_and_what_was_never_seen_by_chance(base):
    """64 unseen canaries: their mean exposure is 1.4 bits, and 7 deviations of 0.16 bits from what is asserted."""
    learnt, start = make_canaries(4, 127), initial_adapter(base, LORA, 0)
    examples = [canary.example(canary.answer) for canary in learnt]
    result = train_round(base, start, examples, SPEC, LORA, round_index=0, rounds=1, seed_material=b"x" * 32)
    for found in exposures(base, result.adapter, LORA, learnt, max_tokens=64):
        assert (found.rank, found.among, found.bits) == (1, 128, 7.0)
    scored = []
    unseen = exposures(
        base, start, LORA, make_canaries(64, 31, seed=1), max_tokens=64, batch_size=256, on_batch=scored.append
    )
    assert scored == [32 * n for n in range(1, 65)]
    assert 0.3 < np.mean([found.bits for found in unseen]) < 2.6
    assert len({found.rank for found in unseen}) > 10


def test_the_base_alone_can_be_asked(base):
    (found,) = exposures(base, None, None, make_canaries(1, 3), max_tokens=64)
    assert found.among == 4
    assert 1 <= found.rank <= 4
    assert exposures(base, None, None, [], max_tokens=64) == []


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_log_perplexities_are_those_of_whole_passes(base, batch_size):
    """Reading a prompt once for all answers changes nothing; answers of other lengths are only padded."""
    canary = Canary("Room 12 of ward 3: ", "481039", ("7", "12345678", "000000", "4810"))
    with use_adapter(base, None, None):
        found = _log_perplexities(base, canary, 64, batch_size)
    for value, answer in zip(found, (canary.answer, *canary.candidates), strict=True):
        encoded = encode(base.tokenizer, canary.example(answer), 64)
        ids = torch.tensor([encoded.ids[:-1]])
        with torch.no_grad():
            logits = base.model(input_ids=ids).logits[0].double().log_softmax(-1)
        wanted = -sum(logits[at - 1, ids[0, at]] for at in range(encoded.answer_start, ids.shape[1]))
        assert value == pytest.approx(float(wanted), abs=1e-4)


def test_exposure_is_that_of_the_paper():
    candidates = np.arange(1.0, 8.0)
    assert [exposure_of(value, candidates).rank for value in (0.5, 4.5, 9.0)] == [1, 5, 8]
    assert exposure_of(0.5, candidates).bits == 3
    assert exposure_of(9.0, candidates).bits == 0
    assert exposure_of(4.0, candidates).rank == 5  # as likely as a candidate: not told apart from it


def test_chance_is_1_44_bits_in_the_mean():
    candidates = np.arange(128.0)
    mean = np.mean([exposure_of(value - 0.5, candidates).bits for value in range(129)])
    assert mean == pytest.approx(math.log2(129) - math.lgamma(130) / math.log(2) / 129)
    assert mean == pytest.approx(math.log2(math.e), abs=0.05)


def test_answers_that_are_not_finite_are_the_least_likely():
    assert exposure_of(math.nan, np.arange(3.0)).rank == 4
    assert exposure_of(math.nan, np.array([math.nan, 1.0])).bits == 0
    assert exposure_of(1.5, np.array([1.0, math.nan, math.inf])).rank == 2
    assert exposure_of(1.0, np.ones(50)).bits == 0


@pytest.mark.parametrize("candidates", [(), ("a",), ("b", "b")])
def test_candidates_are_others(candidates):
    with pytest.raises(ConfigError, match="all different"):
        Canary("p", "a", candidates)


def test_nothing_of_a_canary_is_cut(base):
    with pytest.raises(ConfigError, match=r"raise training\.max_tokens"):
        exposures(base, None, None, [Canary("long " * 20, "1", ("2",))], max_tokens=50)


def test_canaries_follow_from_the_sites_secret_and_the_plan():
    spec, secret, plan = CanarySpec(per_site=3, repeats=2, candidates=63), SecretBytes(b"s" * 32), b"p" * 32
    found = draw_canaries(spec, secret, plan)
    assert found == draw_canaries(spec, secret, plan)
    for other in (draw_canaries(spec, SecretBytes(b"t" * 32), plan), draw_canaries(spec, secret, b"q" * 32)):
        assert not {c.prompt for c in found} & {c.prompt for c in other}
        assert [c.answer for c in found] != [c.answer for c in other]
    assert len({c.prompt for c in found}) == 3
    assert all(len(c.candidates) == 63 and len(answer) == 6 for c in found for answer in (c.answer, *c.candidates))
    records = planted(found, spec)
    assert [r.answer for r in records] == [c.answer for c in found for _ in range(2)]
    assert len({r.patient_id for r in records}) == 3
    # No note's patient is called so, whatever notes call their patients: nobody knows the mark before.
    assert all(canary.prompt in records[2 * number].patient_id for number, canary in enumerate(found))


def test_drawn_answers_are_uniform():
    """A chi-squared test over the first digit of 64 * 1024 numbers; it fails by chance once in 10^6 seeds."""
    found = draw_canaries(CanarySpec(per_site=64, candidates=1023), SecretBytes(b"u" * 32), b"p" * 32)
    digits = [int(answer[0]) for c in found for answer in (c.answer, *c.candidates)]
    assert stats.chisquare(np.bincount(digits, minlength=10)).pvalue > 1e-6
    leading = [int(c.answer[0]) for c in found]
    assert stats.chisquare(np.bincount(leading, minlength=10)).pvalue > 1e-6


@pytest.mark.parametrize("canaries", [1, 8, 64])
def test_chance_stays_below_what_is_said_of_it(canaries):
    """Ranks of nobody's answers, 20,000 runs: 1 in 100 exceeds the bound, give or take five deviations."""
    ranks = np.random.default_rng(1).integers(1, 129, (20_000, canaries))
    means = (highest(127) - np.log2(ranks)).mean(axis=1)
    assert means.mean() == pytest.approx(CHANCE, abs=0.06)
    assert (means > no_memory_stays_below(canaries)).mean() < 0.01 + 5 * math.sqrt(0.01 / 20_000)
    assert (means > no_memory_stays_below(canaries, 0.5)).mean() > 0.4
