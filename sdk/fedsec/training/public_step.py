"""From a decoded sum to what the next round starts from: the same at the coordinator and at every site.

Without distributed noise the sum is a mean update. It is added to the adapter, or, where the plan asks for FedAdam,
taken as a gradient (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2). With distributed noise the sum
is one noisy gradient, and AdamW (Loshchilov and Hutter 2019) takes one step with it. ``fedsvd`` then factors B A anew.
All of it is post-processing of the sum, so it costs no privacy. An optimiser's moments are part of what is shared: a
*state* is the adapter with a tensor for each moment beside it, until the last round, which leaves the adapter alone.

Every site has to come to the same bits: elementwise operations that IEEE 754 fixes, in this order; powers of
the decay rates are exact fractions, rounded once; the learning rate is rounded to six digits, so that mathematical
libraries do not have to agree on a cosine's last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np

from fedsec.plan.model import Plan
from fedsec.training.adapter import AdapterState, Float32Array
from fedsec.training.refactor import refactored
from fedsec.training.round import schedule_factor
from fedsec.training.square import folded, is_square
from fedsec.training.strategies import MOMENTS, apply_update, is_moment, shared_names
from fedsec_secure.errors import LocalMisuseError

DECAYS = (Fraction(9, 10), Fraction(999, 1000))
EPSILON = np.float32(1e-8)
Shapes = Mapping[str, tuple[int, ...]]
Step = Callable[[Float32Array, Float32Array, Float32Array], Float32Array]
"""From values and both moments, all of one shape, to the next values."""


def factors_of(state: AdapterState) -> AdapterState:
    """The state without an optimiser's moments: what a site trains from."""
    if not any(is_moment(name) for name in state):
        return state
    return AdapterState({name: tensor for name, tensor in state.items() if not is_moment(name)})


def adapter_of(state: AdapterState) -> AdapterState:
    """The plain LoRA adapter of a state: without moments, and for ``fed-sb`` with B R in B's place."""
    factors = factors_of(state)
    return folded(factors) if any(is_square(name) for name in factors) else factors


def shapes_before(plan: Plan, round_index: int, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state that round ``round_index`` starts from; ``shapes``: those of round 0's.

    For ``round_index`` of plan.rounds those of the finished adapter.
    """
    if round_index == plan.rounds:
        return {name: shape for name, shape in shapes.items() if not is_square(name)}
    moments: dict[str, tuple[int, ...]] = {}
    if plan.dp.mode == "distributed" or plan.server.optimiser == "adam":
        for before in range(min(round_index, 2)):  # names come again every second round at the latest
            for name in shared_names(plan.lora.strategy, shapes, before):
                moments |= {f"{moment}{name}": shapes[name] for moment in MOMENTS}
    return {**shapes, **moments}


def after_sum(plan: Plan, round_index: int, state: AdapterState, mean: Float32Array) -> AdapterState:
    """What round ``round_index + 1`` starts from; after the last round the finished adapter.

    ``mean``: float32[d_shared], as the sum decodes. LocalMisuseError for another length.
    """
    if plan.dp.mode == "distributed":
        new = _optimised(plan, round_index, state, mean, DECAYS, np.float32(0), _adamw(plan, round_index))
    elif plan.server.optimiser == "adam":
        server = plan.server
        decays = (Fraction(str(server.beta1)), Fraction(str(server.beta2)))
        floor = np.float32(server.tau) * np.float32(server.tau)
        new = _optimised(plan, round_index, state, mean, decays, floor, _fedadam(plan))
    else:
        new = apply_update(plan.lora.strategy, state, mean, round_index)
    new = between_rounds(plan, new)
    return new if round_index + 1 < plan.rounds else adapter_of(new)


def between_rounds(plan: Plan, adapter: AdapterState) -> AdapterState:
    """What a strategy does with an adapter between rounds, whoever trained it."""
    return refactored(adapter) if plan.lora.strategy == "fedsvd" else adapter


def _optimised(
    plan: Plan,
    round_index: int,
    state: AdapterState,
    gradient: Float32Array,
    decays: tuple[Fraction, Fraction],
    floor: np.float32,
    step: Step,
) -> AdapterState:
    """The state after one step; ``floor``: the second moment before the first step of a tensor."""
    names = shared_names(plan.lora.strategy, state, round_index)
    if gradient.dtype != np.float32 or gradient.shape != (sum(state[name].size for name in names),):
        raise LocalMisuseError(f"expected a gradient of the shared tensors, found {gradient.dtype}{gradient.shape}")
    tensors, at = dict(state), 0
    for name in names:
        size = state[name].size
        part = gradient[at : at + size].reshape(state[name].shape)
        at += size
        first = state.get(f"{MOMENTS[0]}{name}", np.zeros_like(part))
        second = state.get(f"{MOMENTS[1]}{name}", np.full_like(part, floor))
        first, second = _moved(first, part, decays[0]), _moved(second, part * part, decays[1])
        tensors |= {name: step(state[name], first, second)}
        tensors |= {f"{MOMENTS[0]}{name}": first, f"{MOMENTS[1]}{name}": second}
    return AdapterState(tensors)


def _moved(moment: Float32Array, towards: Float32Array, decay: Fraction) -> Float32Array:
    moved: Float32Array = moment * np.float32(float(decay)) + towards * np.float32(float(1 - decay))
    return moved


def _adamw(plan: Plan, round_index: int) -> Step:
    spec = plan.training
    rate = float(f"{spec.learning_rate * schedule_factor(round_index, plan.rounds, spec):.6g}")
    unbiased, spread = (float(1 - decay ** (round_index + 1)) for decay in DECAYS)

    def step(values: Float32Array, first: Float32Array, second: Float32Array) -> Float32Array:
        kept = values * np.float32(1 - rate * spec.weight_decay)
        root = np.sqrt(second / np.float32(spread)) + EPSILON
        stepped: Float32Array = kept - first / np.float32(unbiased) / root * np.float32(rate)
        return stepped

    return step


def _fedadam(plan: Plan) -> Step:
    """x + eta m / (sqrt(v) + tau): an update points where values should go, a gradient away from it."""
    rate, tau = np.float32(plan.server.learning_rate), np.float32(plan.server.tau)

    def step(values: Float32Array, first: Float32Array, second: Float32Array) -> Float32Array:
        root: Float32Array = np.sqrt(second) + tau
        stepped: Float32Array = values + first / root * rate
        return stepped

    return step
