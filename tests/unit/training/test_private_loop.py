"""DP-SGD as a whole: what a step reveals, who is in it, and each known way to get it wrong."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsec.plan.cost import PrivateSteps
from fedsec.plan.specs import DpSpec, LoraSpec
from fedsec.training.adapter import initial_adapter
from fedsec.training.base_model import load_base
from fedsec.training.batches import encode
from fedsec.training.lora import lora_parameters
from fedsec.training.private import loop
from fedsec.training.private.loop import Private, PrivateRound
from fedsec.training.private.mechanism import MOVED, SLACK, NoisySum
from fedsec.training.private.opacus_engine import OpacusLora
from fedsec.training.private.per_sample import PerSampleLora
from fedsec.training.round import Position
from fedsec.training.strategies import trained_names
from fedsec_secure.accounting.events import PoissonSampledEvent, SelfComposed
from fedsec_secure.errors import ConfigError, LocalMisuseError
from fedsec_secure.numeric.poisson_sampling import PoissonSampler
from tests.unit.training.conftest import LORA, TINY, make_examples
from tests.unit.training.private_steps import DP, SPEC, changed, distance, sums_of, train
from tests.unit.training.test_private_agreement import needs_opacus


def test_training_moves_the_adapter_and_leaves_the_model_as_it_was(tiny, start, examples):
    threads = torch.get_num_threads()
    result = train(tiny, start, examples)
    assert result.adapter != start
    assert (result.steps, result.examples) == (4, 12)
    assert torch.get_num_threads() == threads
    model_state = {n: (p.requires_grad, p.grad) for n, p in lora_parameters(tiny.lora.model).items()}
    assert set(model_state.values()) == {(False, None)}


def test_private_training_lowers_the_loss_where_noise_is_small(tiny, start, examples):
    losses = []
    private = changed(noise_multiplier=0.125, sampling_rate=1.0, steps=30, expected_batch=12, clipping_norm=5.0)
    train(tiny, start, examples, private, on_step=lambda info: losses.append(info.loss))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize("strategy", ["fedit", "ffa"])
def test_only_shared_factors_get_noise(tiny, start, examples, strategy):
    result = train(tiny, start, examples, lora=LoraSpec(rank=4, alpha=8.0, strategy=strategy))
    moved = {
        name.split(".")[-2] for name in result.adapter.shapes if not np.array_equal(result.adapter[name], start[name])
    }
    assert moved == ({"lora_B"} if strategy == "ffa" else {"lora_A", "lora_B"})


# ---- trap 1: records coupled by a mean over the batch


@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("physical", [1, 2, 4])
def test_one_unit_moves_the_sum_by_at_most_the_clipping_norm(quiet, drawing, tiny, start, unit, physical):
    """Whoever else is drawn, one long unit among short ones included."""
    examples = make_examples(8)
    long = examples[0].model_copy(update={"answer": "drug0 | Drug\n" * 9})
    patients = [e.model_copy(update={"patient_id": f"p{i % 4}"}) for i, e in enumerate([long, *examples[1:]])]
    private = changed(steps=1, unit=unit, clipping_norm=1e-3, max_records=8)
    spec = SPEC.model_copy(update={"batch_size": physical})
    everyone = list(range(4 if unit == "patient" else 8))
    whole, *without = sums_of(
        quiet, drawing, tiny, start, patients, everyone, *([i for i in everyone if i != j] for j in everyone),
        private=private, spec=spec, lora=LORA.model_copy(update={"dropout": 0.0}),
    )  # fmt: skip
    moved = [distance(whole, less) for less in without]
    assert max(moved) <= 1e-3 * (1 + 1e-3)
    assert min(moved) > 0.99e-3  # every gradient here is longer than the norm, so each is felt in full


# ---- trap 2: nobody is drawn


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_an_empty_draw_is_a_step_with_noise(drawing, tiny, start, examples, unit):
    drawing([], [], [])
    seen = []
    result = train(tiny, start, examples, changed(steps=3, unit=unit), on_step=seen.append)
    assert [info.step for info in seen] == [1, 2, 3]
    assert all(math.isnan(info.loss) for info in seen)
    assert (result.steps, result.tokens) == (3, 0)
    assert all(not np.array_equal(result.adapter[n], start[n]) for n in start.shapes)


# ---- trap 3: padding, and trap 6: counts and denominators


def test_the_sum_of_a_draw_is_that_of_its_records_one_by_one(quiet, drawing, tiny, start, examples):
    plain = LORA.model_copy(update={"dropout": 0.0})
    private = changed(steps=1, clipping_norm=10.0)
    whole, *alone = sums_of(
        quiet, drawing, tiny, start, examples, [0, 3, 5, 7], [0], [3], [5], [7], private=private, lora=plain
    )
    added = {n: sum(one[n] for one in alone) for n in whole}
    assert distance(whole, added) < float(MOVED) * distance(whole, {n: torch.zeros_like(t) for n, t in whole.items()})


@pytest.mark.parametrize(("physical", "slack"), [(1, Fraction(0)), (2, SLACK), (64, SLACK)])
@pytest.mark.parametrize("strategy", ["fedit", "ffa", "fed-sb"])
def test_the_noise_of_a_step_is_sized_for_what_it_trains_and_for_mates_where_there_are_any(
    tiny, examples, strategy, physical, slack
):
    lora, spec = LORA.model_copy(update={"strategy": strategy}), SPEC.model_copy(update={"batch_size": physical})
    before = initial_adapter(tiny, lora, 0)
    dimension = sum(before[name].size for name in trained_names(strategy, before, 0))
    private = changed(clipping_norm=0.25, noise_multiplier=1.5)
    with (run := PrivateRound(tiny, before, examples, spec, lora, private, Position(0, 1))).started():
        assert run._mechanism.sigma == NoisySum(0.25, 1.5, dimension, slack).sigma
        assert run._mechanism.deviation > 1.5 * 0.25 * (1 + slack)


@pytest.mark.parametrize("mates", [1, 2, 3])
def test_a_record_with_few_answer_tokens_does_not_see_its_mates_in_the_head(start, mates):
    """Alone it has two rows in the head, and products of three rows or fewer are computed in another order."""
    base = load_base(TINY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base.model.config.tie_word_embeddings = False
        base.model.lm_head = torch.nn.Linear(16, 1 << 16, bias=False).requires_grad_(False)  # as wide as real ones
    short = [e.model_copy(update={"answer": "x"}) for e in make_examples(1 + mates)]
    run = PrivateRound(base, start, short, SPEC, LORA.model_copy(update={"dropout": 0.0}), changed(), Position(0, 1))
    with run.started():
        (alone,) = run.gradients.each([[0]])
        (together,) = run.gradients.each([[i] for i in range(1 + mates)])
    one = {name: tensor[0].double() for name, tensor in alone.items()}
    among = {name: tensor[0].double() for name, tensor in together.items()}
    assert distance(one, among) < float(MOVED) / 10 * distance(one, {n: torch.zeros_like(t) for n, t in one.items()})


def test_the_denominator_is_the_plan_s_whoever_is_drawn(monkeypatch, drawing, tiny, start, examples):
    """Adam forgets a factor, so the gradient itself is looked at."""
    released, given = [], []

    class Fixed(NoisySum):
        def release(self, total):
            released.append({n: torch.full_like(t, 3.0) for n, t in total.items()})
            return released[-1]

    monkeypatch.setattr(loop, "NoisySum", Fixed)
    original = PrivateRound.backward

    def watched(self):
        seen = original(self)
        given.append({float(p.grad.max()) for p in self.trained.values()})
        return seen

    monkeypatch.setattr(PrivateRound, "backward", watched)
    drawing([], [1], list(range(12)))
    train(tiny, start, examples, changed(steps=3, expected_batch=6))
    assert given == [{0.5}] * 3


def test_the_learning_rate_follows_steps_whatever_they_are_computed_in(drawing, tiny, start, examples):
    """Steps of six, one, three and no physical batches: the rate moves on by one step in each, and only then."""
    spec = SPEC.model_copy(update={"schedule": "cosine", "batch_size": 2, "warmup_fraction": 0.1})
    batches, seen = [], []
    original = loop.UnitGradients._pass

    def watched(self, records):
        batches.append(len(seen))
        return original(self, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.UnitGradients, "_pass", watched)
        drawing(list(range(12)), [3], [], [0, 1, 4, 5, 8, 9])
        lora = LORA.model_copy(update={"dropout": 0.0})
        run = PrivateRound(tiny, start, examples, spec, lora, changed(steps=4), Position(1, 3))
        run.run(on_step=seen.append)
    counts = Counter(batches)
    assert counts[0] >= 6
    assert counts[3] >= 3
    assert (counts[1], counts[2]) == (1, 0)
    # Round 1 of 3 with 4 steps each: steps 4 to 7 of 12, of which the first two warm up.
    expected = [5e-3 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 10)) for step in (4, 5, 6, 7)]
    assert [info.learning_rate for info in seen] == pytest.approx(expected, rel=1e-12)
    assert [info.step for info in seen] == [1, 2, 3, 4]


def test_the_plan_s_steps_and_rate_are_what_is_drawn_and_accounted():
    for rate in (0.1, 1 / 3, 0.05, 1.0):
        planned = PrivateSteps.of(DP.model_copy(update={"sampling_rate": rate}), 7)
        assert isinstance(planned.event, SelfComposed)
        assert planned.event.count == 7
        assert isinstance(planned.event.event, PoissonSampledEvent)
        assert planned.event.event.rate == planned.sampler.accounted >= float(planned.sampler.rate)
    with pytest.raises(LocalMisuseError, match="no private step is planned"):
        PrivateSteps.of(DpSpec(), 7)


# ---- trap 4: gradient checkpointing


def test_gradient_checkpointing_changes_no_sum(quiet, drawing, tiny, start, examples):
    plain = LORA.model_copy(update={"dropout": 0.0})
    (a,) = sums_of(quiet, drawing, tiny, start, examples, [0, 1, 2], lora=plain)
    (b,) = sums_of(quiet, drawing, tiny, start, examples, [0, 1, 2], lora=plain, gradient_checkpointing=True)
    assert distance(a, b) == 0


# ---- the engines, through whole steps


@needs_opacus
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("physical", [1, 4])
@pytest.mark.parametrize("strategy", ["fedit", "ffa", "fed-sb"])
@pytest.mark.parametrize(("unit", "sampling"), [("record", "unit"), ("patient", "unit"), ("patient", "record")])
def test_a_step_s_sum_is_the_same_by_either_engine(
    monkeypatch, quiet, drawing, tiny, unit, sampling, strategy, physical, checkpointing
):
    """Of every kind of unit and sampling, and also where what is clipped is no factor (fed-sb); with dropout."""
    used = []
    collect = OpacusLora._collect
    monkeypatch.setattr(OpacusLora, "_collect", lambda self: (used.append(self), collect(self))[1])
    lora = LORA.model_copy(update={"strategy": strategy, "dropout": 0.3})
    examples = [
        e.model_copy(update={"patient_id": f"p{i % 3}", "answer": "drug | Drug\n" * (1 + i % 4)})
        for i, e in enumerate(make_examples(6))
    ]
    dp = DP.model_copy(update={"unit": unit, "sampling": sampling, "steps": 1, "clipping_norm": 0.01})
    given = {"lora": lora, "spec": SPEC.model_copy(update={"batch_size": physical})}
    for engine in ("own", "opacus"):
        with monkeypatch.context() as patch:
            numbers = count()
            patch.setattr(os, "urandom", lambda size, numbers=numbers: next(numbers).to_bytes(size, "big"))
            drawing([0, 1, 2])
            start = initial_adapter(tiny, lora, 0)
            train(tiny, start, examples, Private(dp, engine), gradient_checkpointing=checkpointing, **given)
        assert bool(used) == (engine == "opacus")
    own, other = quiet.seen
    assert 0 < distance(own, {n: 0 * t for n, t in own.items()}) <= 3 * 0.01
    assert distance(own, other) <= 1e-6 * distance(own, {n: 0 * t for n, t in own.items()})


# ---- trap 5: noise and sampling from a seed


def test_no_seed_repeats_a_round(tiny, start, examples):
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        results.append(train(tiny, start, examples).adapter)
    assert results[0] != results[1]


def test_forks_share_neither_sample_nor_noise(tiny, start, examples):
    """Two children of one process, and their parent."""
    found = []
    for _ in range(2):
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            drawn = PoissonSampler(0.5).sample(512).tobytes()
            noise = NoisySum(1.0, 1.0, 64).release({"a": torch.zeros(64, dtype=torch.float64)})["a"].numpy().tobytes()
            os.write(into, drawn + noise)
            os._exit(0)
        os.close(into)
        with os.fdopen(out, "rb") as pipe:
            found.append(pipe.read())
        assert os.waitpid(child, 0)[1] == 0
    assert len(found[0]) == len(found[1]) == 512 + 8 * 64
    assert found[0][:512] != found[1][:512]
    assert found[0][512:] != found[1][512:]


# ---- trap 7 is in test_private_refusals, trap 8 in the audits


# ---- patients


def test_a_record_whose_gradient_is_not_finite_adds_nothing(monkeypatch, quiet, drawing, tiny, start, examples):
    original = loop.record_losses

    def poisoned(base, batch, least_rows):
        found = original(base, batch, least_rows)
        bad = (batch.input_ids[:, 0] == batch.input_ids[0, 0]).float() * math.inf
        return type(found)(found.sums * bad, found.tokens) if len(bad) == 1 else found

    monkeypatch.setattr(loop, "record_losses", poisoned)
    (total,) = sums_of(quiet, drawing, tiny, start, examples, [2])
    assert all(torch.equal(t, torch.zeros_like(t)) for t in total.values())


# ---- limits, and going on after a kill


def test_more_units_in_a_step_than_the_bounds_hold_for_are_refused(tiny, start, examples):
    with pytest.raises(ConfigError, match="expected at most 450 units in a step, found more here"):
        loop.require_small_batches(901, DP, 4)
    loop.require_small_batches(900, DP, 4)
    loop.require_small_batches(1200, DP, 1)
    with pytest.raises(ConfigError, match="expected at most 8192 units in a step"):
        loop.require_small_batches(20_000, DP, 1)


@pytest.mark.parametrize(("physical", "most"), [(4, 450), (1, 8192)])
def test_a_round_of_too_many_units_does_not_begin(monkeypatch, tiny, start, examples, physical, most):
    """Every unit is drawn: so many are the most that its noise, its clipping and its integers are made for."""
    monkeypatch.setattr(loop, "encode", cache(encode))
    spec = SPEC.model_copy(update={"batch_size": physical})

    def begin(units):
        private = changed(sampling_rate=1.0)
        return PrivateRound(tiny, start, [examples[0]] * units, spec, LORA, private, Position(0, 1))

    assert len(begin(most).units) == most
    with pytest.raises(ConfigError, match=f"expected at most {most} units in a step, found more here"):
        begin(most + 1)


def test_the_page_says_for_how_many_units_the_bounds_hold():
    page = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text(encoding="utf-8")
    assert f"({loop.MAX_RECORDS // 2:,} expected, or {loop.MATES // 2} with mates;" in page


def test_a_base_with_experts_trains_one_record_at_a_time(monkeypatch, tiny, start, examples):
    monkeypatch.setitem(tiny.model._modules, "experts", torch.nn.Identity())
    train(tiny, start, examples, spec=SPEC.model_copy(update={"batch_size": 1}))
    with pytest.raises(ConfigError, match=r"records routed together.*set training\.batch_size = 1"):
        train(tiny, start, examples)


def test_every_record_of_every_step_has_dropout_of_its_own(monkeypatch, drawing, tiny, start, examples):
    keys, plain = [], PerSampleLora.gradients
    monkeypatch.setattr(PerSampleLora, "gradients", lambda self, k, losses: (keys.extend(k), plain(self, k, losses))[1])
    drawing([0, 1, 2, 3, 4], [0, 1, 2])
    train(tiny, start, examples, changed(steps=2))
    assert len(keys) == len(set(keys)) == 8
    assert {len(key) for key in keys} == {16}


def test_a_checkpoint_is_of_its_units_and_its_engine(tiny, start, examples):
    """The same notes of other patients are other units, though every token is the same."""

    def fingerprint(given, **private):
        dp = DP.model_copy(update={"unit": "patient"})
        return PrivateRound(tiny, start, given, SPEC, LORA, Private(dp, **private), Position(0, 1)).fingerprint()

    others = [e.model_copy(update={"patient_id": f"p{i // 2}"}) for i, e in enumerate(examples)]
    assert fingerprint(examples) == fingerprint(list(examples))
    assert len({fingerprint(examples), fingerprint(others), fingerprint(examples, engine="opacus")}) == 3


class Killed(Exception):
    pass


def test_a_killed_round_goes_on_from_its_checkpoint(tiny, start, examples, tmp_path: Path):
    path, steps = tmp_path / "round", []

    def die(info):
        steps.append(info.step)
        if info.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(tiny, start, examples, checkpoint=path, checkpoint_every=2, on_step=die)
    result = train(tiny, start, examples, checkpoint=path, on_step=lambda info: steps.append(info.step))
    assert steps == [1, 2, 3, 3, 4]  # step 3 is taken anew, with fresh coins: its first result never left
    assert result.steps == 4
    again = []
    train(tiny, start, examples, changed(noise_multiplier=2.0), checkpoint=path, on_step=lambda i: again.append(i.step))
    assert again == [1, 2, 3, 4]  # a checkpoint of another mechanism is not used
