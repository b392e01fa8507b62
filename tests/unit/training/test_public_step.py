"""The optimiser that coordinator and sites run on the decoded sum: AdamW, to the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsec.plan.specs import DpSpec, ServerSpec, TrainingSpec
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import adapter_of, after_sum, factors_of, shapes_before
from fedsec.training.round import schedule_factor
from fedsec_secure.errors import LocalMisuseError
from tests.e2e.federation import ArithmeticWork, Keys, make_plan

KEYS = Keys.generate(3)
SPEC = TrainingSpec(learning_rate=1e-2, weight_decay=0.1, batch_size=1)
DP = DpSpec(mode="distributed", unit="record", target_epsilon=8.0, dimension=192, sampling_rate=0.1)


def plan(strategy="fedit", rounds=4, **changes):
    dimension = 192 if strategy == "fedit" else 96
    dp = changes.pop("dp", DP.model_copy(update={"dimension": dimension}))
    return make_plan(KEYS, rounds=rounds, strategy=strategy, training=SPEC, dp=dp, **changes)


def start(of) -> AdapterState:
    return ArithmeticWork("site-a", of).initial_adapter()


def gradients(count: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(0, 0.1, size).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(("strategy", "size"), [("fedit", 192), ("ffa", 96)])
def test_it_is_adamw_with_the_plan_s_schedule(strategy, size):
    of = plan(strategy)
    state, first = start(of), start(of)
    names = [n for n in sorted(first) if strategy == "fedit" or ".lora_B." in n]
    parameters = {n: torch.nn.Parameter(torch.tensor(first[n])) for n in names}
    optimiser = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=0.1)
    for index, gradient in enumerate(gradients(4, size)):
        state = after_sum(of, index, state, gradient)
        optimiser.param_groups[0]["lr"] = 1e-2 * schedule_factor(index, 4, of.training)
        at = 0
        for parameter in parameters.values():
            parameter.grad = torch.tensor(gradient[at : at + parameter.numel()]).view(parameter.shape)
            at += parameter.numel()
        optimiser.step()
        for name, parameter in parameters.items():
            np.testing.assert_allclose(state[name], parameter.detach().numpy(), atol=2e-7, rtol=2e-6)
    frozen = set(first) - set(names)
    assert all(np.array_equal(state[n], first[n]) for n in frozen)


def test_moments_travel_until_the_last_round_and_not_after_it():
    of = plan("ffa", rounds=2)
    state = first = start(of)
    shapes = first.shapes
    assert shapes_before(of, 0, shapes) == shapes
    state = after_sum(of, 0, state, gradients(1, 96)[0])
    assert state.shapes == dict(sorted(shapes_before(of, 1, shapes).items()))
    assert len(state) == len(first) + 2 * 4
    assert adapter_of(state).shapes == shapes
    state = after_sum(of, 1, state, gradients(2, 96)[1])
    assert state.shapes == shapes
    assert shapes_before(of, 2, shapes) == shapes
    assert adapter_of(state) is state


def test_without_distributed_noise_the_sum_is_added():
    of = plan(dp=DpSpec())
    (mean,) = gradients(1, 192)
    after = after_sum(of, 0, start(of), mean)
    np.testing.assert_array_equal(after.flatten(), start(of).flatten() + mean)
    assert shapes_before(of, 1, start(of).shapes) == start(of).shapes


@pytest.mark.parametrize("wrong", [np.zeros(191, np.float32), np.zeros(192, np.float64), np.zeros((2, 96), np.float32)])
def test_a_gradient_of_another_shape_is_refused(wrong):
    of = plan()
    with pytest.raises(LocalMisuseError, match="expected a gradient of the shared tensors"):
        after_sum(of, 0, start(of), wrong)


def test_steps_repeat_to_the_bit():
    of = plan()
    runs = []
    for _ in range(2):
        state = start(of)
        for index, gradient in enumerate(gradients(3, 192)):
            state = after_sum(of, index, state, gradient)
        runs.append(state.digest())
    assert runs[0] == runs[1]


def fedadam(strategy: str, rounds: int = 5):
    server = ServerSpec(optimiser="adam", learning_rate=0.02, beta1=0.8, beta2=0.9, tau=0.01)
    return plan(strategy, rounds, dp=DpSpec(), server=server)


@pytest.mark.parametrize("strategy", ["fedit", "ffa", "rolora", "fedsa"])
def test_fedadam_is_the_paper_s_algorithm(strategy):
    """Reddi et al. 2021, algorithm 2, in float64: moments from 0 and tau^2, no bias correction."""
    of = fedadam(strategy)
    state = first = start(of)
    values = {n: first[n].astype(float) for n in first}
    m = {n: np.zeros(first[n].shape) for n in first}
    v = {n: np.full(first[n].shape, 0.01**2) for n in first}
    for index in range(of.rounds):
        kinds = {"fedit": "AB", "ffa": "B", "rolora": "BA"[index % 2], "fedsa": "A"}[strategy]
        names = [n for n in sorted(first) if n.split(".")[-2][-1] in kinds]
        (delta,) = gradients(1, sum(first[n].size for n in names))
        assert state.shapes == dict(sorted(shapes_before(of, index, first.shapes).items()))
        state, at = after_sum(of, index, state, delta), 0
        for n in names:
            part = delta[at : at + first[n].size].reshape(first[n].shape).astype(float)
            at += first[n].size
            m[n] = 0.8 * m[n] + 0.2 * part
            v[n] = 0.9 * v[n] + 0.1 * part**2
            values[n] = values[n] + 0.02 * m[n] / (np.sqrt(v[n]) + 0.01)
        for n in first:
            np.testing.assert_allclose(state[n], values[n], atol=1e-6)
    assert state.shapes == first.shapes, "no moment is released"


def test_the_least_tau_is_a_number_where_nothing_moved():
    """Below float32's range it would be 0, and 0 / 0 would end the run after its first round."""
    with pytest.raises(ValueError, match="tau"):
        ServerSpec(optimiser="adam", tau=1e-60)
    of = plan("fedit", 3, dp=DpSpec(), server=ServerSpec(optimiser="adam", tau=1e-12))
    state = first = start(of)
    for index in range(of.rounds):
        state = after_sum(of, index, state, np.zeros(first.size, np.float32))
    assert state == first


def test_moments_of_rolora_are_kept_for_each_half():
    of = fedadam("rolora")
    state = start(of)
    for index, kinds in enumerate(["", "B", "AB", "AB"]):
        moments = {n.split(".")[-2][-1] for n in state if n.startswith("exp_avg")}
        assert moments == set(kinds)
        assert factors_of(state).shapes == start(of).shapes
        (delta,) = gradients(1, 96)
        state = after_sum(of, index, state, delta)


def test_fed_sb_is_folded_in_the_last_round_and_not_before():
    of = plan("fed-sb", rounds=2, dp=DpSpec())
    first = start(of)
    (mean,) = gradients(1, 4 * 2 * 2)
    state = after_sum(of, 0, first, mean)
    assert state.shapes == first.shapes
    last = after_sum(of, 1, state, mean)
    assert last.shapes == dict(sorted(shapes_before(of, 2, first.shapes).items()))
    assert not any(".lora_R." in n for n in last)
    for name in (n for n in state if ".lora_R." in n):
        b = name.replace(".lora_R.", ".lora_B.")
        np.testing.assert_allclose(last[b], state[b].astype(float) @ (2 * state[name].astype(float)), atol=1e-6)
