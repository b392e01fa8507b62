"""Distributed noise through whole rounds: the sum of integers is exact, and nobody's share is seen or drawn twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedsec.plan.cost import cost, distributed_step, releases
from fedsec.plan.specs import DpSpec
from fedsec.privacy.accountant import RdpFilter, steps_of
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import after_sum
from fedsec.wire import sum_parameters
from fedsec_secure.accounting.events import (
    DiscreteGaussianSumEvent,
    PoissonSampledEvent,
    PoissonSampledRecordsEvent,
)
from fedsec_secure.errors import AbortError, ConfigError, LocalMisuseError, PeerViolationError, TransportError
from fedsec_secure.masking.site_masked import Contribution, NoisyContribution
from fedsec_secure.secrets import SecretBytes
from tests.e2e.federation import ArithmeticWork, Federation, Keys, make_plan
from tests.marks import sampled

SITES, D = 5, 192
DP = DpSpec(mode="distributed", unit="record", target_epsilon=6.0, sampling_rate=0.05, dimension=D, expected_batch=8)


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


def plan_of(keys, ahead=1, **changes):
    return make_plan(keys, dp=DP.model_copy(update={"keys_ahead": ahead} | changes.pop("dp", {})), **changes)


AHEAD = pytest.mark.parametrize("ahead", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
NAMES = {"train": "keys", "share": "deal", "mask": "step"}
"""Of the exchanges where keys are shared ahead."""


def named(exchange: str, ahead: int) -> str:
    return exchange if ahead == 1 else NAMES.get(exchange, exchange)


def expected_adapter(federation: Federation, plan, sites_by_round) -> AdapterState:
    """What pooling the sites' integers in the open gives."""
    state, step = federation.initial(), distributed_step(plan)
    for index, sites in enumerate(sites_by_round):
        total = sum(federation.works[s].sums[index] for s in sites)
        unit = np.float32(step.clip / step.clip_in_steps / plan.dp.expected_batch)
        state = after_sum(plan, index, state, total.astype(np.float32) * unit)
    return state


@AHEAD
def test_the_adapter_is_that_of_the_integers_added_in_the_open(tmp_path, keys, ahead):
    plan = plan_of(keys, ahead, rounds=3)
    with Federation(tmp_path, keys, plan) as federation:
        adapter = federation.run()
        assert adapter == expected_adapter(federation, plan, [keys.sites] * 3)
        assert adapter.shapes == federation.initial().shapes
        assert all(len(work.sums) == 3 for work in federation.works.values())


@AHEAD
def test_resuming_draws_nothing_twice(tmp_path, keys, ahead):
    plan = plan_of(keys, ahead, rounds=3)
    with Federation(tmp_path, keys, plan) as federation:
        whole = federation.run()
    with Federation(tmp_path, keys, plan) as federation:
        assert federation.run() == whole
        assert all(work.sums == [] for work in federation.works.values())


class Lost:
    """A site whose answers to one exchange are lost."""

    def __init__(self, agent, exchange: str, times: int) -> None:
        self.agent, self.exchange, self.times, self.seen = agent, exchange, times, []

    def handle(self, name: str, body: bytes):
        if name == self.exchange and self.times:
            self.times -= 1
            self.seen.append(self.agent.handle(name, body))
            raise TransportError("connection refused")
        return self.agent.handle(name, body)


@AHEAD
def test_another_attempt_sends_the_same_noise_under_other_masks(tmp_path, keys, ahead):
    plan = plan_of(keys, ahead, rounds=1)
    wrap = lambda site, agent: Lost(agent, named("share", ahead), 1) if site in ("site-a", "site-b") else agent  # noqa: E731
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        adapter = federation.run()
        assert [e["attempt"] for e in federation.events if e["event"] == "attempt-aborted"] == [0]
        assert all(len(work.sums) == 1 for work in federation.works.values())
        assert adapter == expected_adapter(federation, plan, [keys.sites])


@AHEAD
def test_with_fewer_survivors_than_the_noise_is_sized_for_nothing_is_opened(tmp_path, keys, ahead):
    plan = plan_of(keys, ahead, rounds=1)
    assert plan.secure.quorum == 4
    wrap = lambda site, agent: Lost(agent, named("mask", ahead), 9) if site in ("site-a", "site-b") else agent  # noqa: E731
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        with pytest.raises(AbortError):
            federation.run()
        exchanges = {e["exchange"] for e in federation.events if e["event"] == "exchange"}
        assert named("mask", ahead) in exchanges
        assert not exchanges & {"confirm", "unmask", "verdict"}


@AHEAD
def test_one_site_less_is_still_enough_noise(tmp_path, keys, ahead):
    plan = plan_of(keys, ahead, rounds=2)
    wrap = lambda site, agent: Lost(agent, named("mask", ahead), 9) if site == "site-a" else agent  # noqa: E731
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        adapter = federation.run()
        stayed = [s for s in keys.sites if s != "site-a"]
        assert adapter == expected_adapter(federation, plan, [stayed] * 2)
        step = distributed_step(plan)
        assert step.honest == 3  # four survivors, one of whom may talk
        assert 3 * step.sigma**2 >= (step.noise_multiplier * step.sensitivity) ** 2


@AHEAD
def test_a_site_that_was_away_goes_on_from_what_the_others_verified(tmp_path, keys, ahead):
    plan = plan_of(keys, ahead, rounds=3)
    wrap = lambda site, agent: Lost(agent, named("train", ahead), 1) if site == "site-a" else agent  # noqa: E731
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        federation.run()
        survivors = [e["survivors"] for e in federation.events if e["event"] == "round"]
        back = {1: 1, 2: 2, 8: 3}[ahead]  # with the next batch
        assert [("site-a" in s) for s in survivors] == [n >= back for n in range(3)]


def test_the_noise_of_an_accepted_sum_is_at_least_the_central_one(keys):
    """By chi squared over the noise of four survivors less one who talks: false alarm once in 10^9 runs."""
    plan = plan_of(keys, dp={"dimension": 400_000})
    step = distributed_step(plan)
    total = sum(step.noise.sample(400_000) for _ in range(step.honest)).astype(np.float64)
    central = step.noise_multiplier * step.sensitivity
    statistic = float((total**2).sum()) / central**2
    low, high = stats.chi2(400_000).ppf([5e-10, 1 - 5e-10])
    assert low < statistic < high
    assert high / 400_000 - 1 < 0.014
    assert math.sqrt(statistic / 400_000) == pytest.approx(1, abs=0.007)


def test_the_ledger_stores_the_very_mechanism(keys):
    plan = plan_of(keys, rounds=2)
    step, planned = distributed_step(plan), cost(plan)
    events = [event for _, _, event in releases(plan)]
    assert events == [step.event, step.event]
    assert isinstance(events[0], PoissonSampledEvent)
    assert isinstance(events[0].event, DiscreteGaussianSumEvent)
    assert planned.epsilon < planned.charged <= 6.0


@pytest.mark.parametrize("records", sampled((2, 5), 2))
def test_the_ledger_is_charged_for_all_records_of_a_patient_that_may_be_drawn(keys, records):
    """What the plan says that it costs is what its releases cost, and several times what one record each would."""
    dp = {"unit": "patient", "sampling": "record", "max_records": records}
    plan = plan_of(keys, rounds=3, dp=dp)
    events = [event for _, _, event in releases(plan)]
    assert {(type(e), e.records) for e in events} == {(PoissonSampledRecordsEvent, records)}
    assert RdpFilter().epsilon(events, plan.dp.target_delta) == pytest.approx(cost(plan).charged, rel=1e-9)
    one = steps_of(plan.dp.sampling_rate, plan.dp.noise_multiplier, 3)
    assert cost(plan).charged > 1.2 * RdpFilter().epsilon([one], plan.dp.target_delta)


@pytest.mark.parametrize("where", [slice(0, 9), slice(D - 9, D)])
def test_a_sum_that_leaves_its_lanes_ends_the_run(tmp_path, keys, where):
    """Privacy does not need the lanes; the adapter does. In a low lane the tag tells, in the highest its range."""
    plan = plan_of(keys, rounds=1)
    with Federation(tmp_path, keys, plan) as federation:
        original = ArithmeticWork.noisy_sum

        def wide(self, adapter, step):
            noisy = original(self, adapter, step)
            noisy[where] += 1 << 19
            return noisy

        for work in federation.works.values():
            work.noisy_sum = wide.__get__(work)
        with pytest.raises((AbortError, PeerViolationError)):
            federation.run()
        assert not [e for e in federation.events if e["event"] == "round"]


def test_a_plan_whose_sums_no_lane_carries_is_refused(keys):
    plan = plan_of(keys)
    narrow = plan.model_copy(
        update={
            "dp": plan.dp.model_copy(update={"expected_batch": 4096}),
            "secure": plan.secure.model_copy(update={"ring": "4x16"}),
        }
    )
    with pytest.raises(ConfigError, match=r"choose a wider ring, for instance 2x32, or lower dp.expected_batch"):
        distributed_step(narrow)
    with pytest.raises(ConfigError, match="choose a wider ring"):  # nobody is asked to approve it either
        plan_of(keys, ring="4x16", dp={"expected_batch": 4096})
    with pytest.raises(ConfigError, match=r"noise \S+; lower dp.expected_batch"):  # there is no wider one
        plan_of(keys, ring="2x32", dp={"expected_batch": 1 << 24})
    assert distributed_step(plan_of(keys, ring="2x32")).clip_in_steps == 1 << 16


def test_a_sum_over_another_number_of_coordinates_is_refused(keys):
    plan = plan_of(keys)
    assert sum_parameters(plan, D).denominator == 8
    with pytest.raises(ConfigError, match=r"dp.dimension is 192; expected the 191"):
        sum_parameters(plan, D - 1)
    for wrong in (np.zeros(D - 1, np.int32), np.zeros(D, np.float32), np.zeros(D, np.int64)):
        with pytest.raises(LocalMisuseError, match="expected integers int32"):
            NoisyContribution(wrong).source(sum_parameters(plan, D))
    with pytest.raises(LocalMisuseError, match="expected integers with their noise in them"):
        Contribution(np.zeros(D, np.float32), 1, SecretBytes(bytes(32))).source(sum_parameters(plan, D))
    with pytest.raises(LocalMisuseError, match="expected integers int32"):
        NoisyContribution(np.zeros(D, np.int32)).source(sum_parameters(make_plan(keys), D))
