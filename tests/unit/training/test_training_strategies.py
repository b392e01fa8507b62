"""What each strategy trains, shares and keeps, and in what sense its sum is exact."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch

from fedsec.plan.specs import DpSpec, LoraSpec
from fedsec.training.adapter import AdapterState, initial_adapter, load_peft
from fedsec.training.base_model import load_base
from fedsec.training.batches import collate, encode
from fedsec.training.factors import projected
from fedsec.training.loop import train_round
from fedsec.training.lora import attach_lora, lora_parameters, set_adapter_state
from fedsec.training.objective import record_losses
from fedsec.training.private.loop import Private, PrivateRound, train_private_round
from fedsec.training.public_step import adapter_of
from fedsec.training.ranks import cut, padded, spec_of_rank
from fedsec.training.refactor import refactored
from fedsec.training.round import Position
from fedsec.training.square import folded
from fedsec.training.strategies import (
    apply_update,
    local_update,
    personal_names,
    shared_names,
    shared_vector,
    trained_names,
)
from fedsec_secure.errors import ConfigError, LocalMisuseError

from .conftest import LORA, SPEC, TINY

STRATEGIES = ("fedit", "ffa", "rolora", "fedsa", "fedsvd", "fed-sb")
SQUARE = LORA.model_copy(update={"strategy": "fed-sb"})


@pytest.fixture(scope="module")
def square_start(tiny) -> AdapterState:
    return initial_adapter(tiny, SQUARE, 0)


def kinds(names) -> set[str]:
    return {name.split(".")[-2][-1] for name in names}


@pytest.mark.parametrize(
    ("strategy", "trained", "shared", "kept"),
    [
        ("fedit", ("AB", "AB"), ("AB", "AB"), ""),
        ("ffa", ("B", "B"), ("B", "B"), ""),
        ("rolora", ("B", "A"), ("B", "A"), ""),
        ("fedsa", ("AB", "AB"), ("A", "A"), "B"),
        ("fedsvd", ("B", "B"), ("B", "B"), ""),
        ("fed-sb", ("R", "R"), ("R", "R"), ""),
    ],
)
def test_what_is_trained_and_shared_in_which_round(square_start, strategy, trained, shared, kept):
    names = [*square_start, *(f"exp_avg/{name}" for name in square_start)]
    for round_index in range(4):
        assert kinds(trained_names(strategy, names, round_index)) == set(trained[round_index % 2])
        assert kinds(shared_names(strategy, names, round_index)) == set(shared[round_index % 2])
        assert list(shared_names(strategy, names, round_index)) == sorted(shared_names(strategy, names, round_index))
    assert kinds(personal_names(strategy, names)) == set(kept)
    with pytest.raises(ConfigError, match="expected one of fedit, ffa"):
        shared_names("fedavg", names, 0)


def products(adapter: AdapterState) -> list[np.ndarray]:
    plain = adapter_of(adapter)
    firsts = [name for name in plain if ".lora_A." in name]
    return [plain[a.replace(".lora_A.", ".lora_B.")].astype(float) @ plain[a].astype(float) for a in firsts]


@pytest.mark.parametrize("round_index", [0, 1])
@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "fedsa"])
def test_the_mean_update_gives_the_mean_product_except_with_fedit(start, square_start, strategy, round_index):
    """Sites that start with different B, as after some rounds; unweighted, and weighted."""
    generator = np.random.default_rng(round_index)
    at = square_start if strategy == "fed-sb" else start
    at = at.unflatten(at.flatten() + generator.normal(0, 0.3, at.size).astype(np.float32))
    size = shared_vector(strategy, at, round_index).size
    updates = [generator.normal(size=size).astype(np.float32) for _ in range(3)]
    sites = [apply_update(strategy, at, update, round_index) for update in updates]
    for weights in ([1, 1, 1], [1, 5, 2]):
        summed = np.average(updates, axis=0, weights=weights).astype(np.float32)
        found = apply_update(strategy, at, summed, round_index)
        found = refactored(found) if strategy == "fedsvd" else found
        wanted = [np.average(p, axis=0, weights=weights) for p in zip(*map(products, sites), strict=True)]
        gap = max(np.abs(w - f).max() / np.abs(w).max() for w, f in zip(wanted, products(found), strict=True))
        assert gap > 0.1 if strategy == "fedit" else gap < 1e-6


def test_with_fedsa_the_mean_of_a_is_what_every_site_multiplies_its_own_b_with(start):
    generator = np.random.default_rng(0)
    updates = [generator.normal(size=shared_vector("fedsa", start, 0).size).astype(np.float32) for _ in range(3)]
    mean = np.mean(updates, axis=0, dtype=np.float64).astype(np.float32)
    after = apply_update("fedsa", start, mean, 0)
    assert all(np.array_equal(after[n], start[n]) for n in start if ".lora_B." in n)
    firsts = [n for n in sorted(start) if ".lora_A." in n]
    assert np.array_equal(np.concatenate([(after[n] - start[n]).ravel() for n in firsts]).round(5), mean.round(5))
    each = [apply_update("fedsa", start, update, 0) for update in updates]
    for name in firsts:
        assert np.allclose(after[name], np.mean([one[name] for one in each], axis=0), atol=1e-6)
        assert np.abs(after[name] - start[name]).max() > 0.1
    changed = after.unflatten(after.flatten() + np.float32(0.5))  # both were trained: neither is a misuse
    assert local_update("fedsa", after, changed, 0).size == mean.size
    with pytest.raises(LocalMisuseError, match=r"rolora keeps .*lora_A.* frozen"):
        local_update("rolora", after, changed, 0)


# ---- Fed-SB: R between fixed factors


def test_the_fixed_factors_are_orthonormal_and_of_the_seed(tiny, square_start):
    for name in square_start:
        matrix = square_start[name].astype(float)
        if ".lora_R." in name:
            assert matrix.shape == (4, 4)
            assert not matrix.any()
        else:
            rows = matrix if ".lora_A." in name else matrix.T
            np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-6)
    assert initial_adapter(tiny, SQUARE, 0) == square_start
    assert initial_adapter(tiny, SQUARE, 1) != square_start
    assert square_start.digest().hex()[:8] == "76ead0aa", "these bits are a plan's promise, on every platform"


@pytest.mark.parametrize("strategy", ["fedsvd", "fed-sb"])
def test_a_rank_above_a_width_is_refused(tiny, strategy):
    with pytest.raises(ConfigError, match="at most every width"):
        initial_adapter(tiny, LoraSpec(rank=200, strategy=strategy), 0)


def moved(state: AdapterState, seed: int) -> AdapterState:
    """With R somewhere."""
    rng, tensors = np.random.default_rng(seed), dict(state)
    for name in state:
        if ".lora_R." in name:
            tensors[name] = rng.normal(0, 0.2, state[name].shape).astype(np.float32)
    return AdapterState(tensors)


def gradients_by_definition(base, state, encoded) -> dict[str, np.ndarray]:
    """Of one record's loss, by autograd through B R."""
    model = attach_lora(base, SQUARE)
    set_adapter_state(model, folded(state))
    live = lora_parameters(model)
    squares = {n: torch.tensor(np.array(t), requires_grad=True) for n, t in state.items() if ".lora_R." in n}
    replaced = {}
    for name, square in squares.items():
        place = name.replace(".lora_R.", ".lora_B.")
        replaced[place] = torch.tensor(np.array(state[place])) @ square
    names = {p: n for n, p in model.named_parameters()}
    swapped = {names[live[place]]: tensor for place, tensor in replaced.items()}
    model.eval()

    class Swapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return record_losses(base, collate([encoded], base.pad_token)).per_record().sum()

    loss = torch.func.functional_call(Swapped(), {f"model.{n}": t for n, t in swapped.items()}, ())
    found = torch.autograd.grad(loss, list(squares.values()))
    return {name: gradient.numpy() for name, gradient in zip(squares, found, strict=True)}


def test_each_record_s_gradient_of_r_is_autograd_s_of_the_record_alone(tiny, square_start, examples):
    state, spec = moved(square_start, 1), SPEC.model_copy(update={"batch_size": 4})
    dp = DpSpec(mode="local", unit="record", target_epsilon=1.0, noise_multiplier=1.0, steps=1, clipping_norm=1.0)
    quiet = SQUARE.model_copy(update={"dropout": 0.0})
    run = PrivateRound(tiny, state, examples[:4], spec, quiet, Private(dp), Position(0, 1))
    units = [[i] for i in range(4)]
    found: dict[int, dict[str, torch.Tensor]] = {}
    with run.started():
        groups = list(run.gradients._groups(units))
        assert any(len(group) > 1 for group in groups)
        for group, gradients in zip(groups, run.gradients.each(units), strict=True):
            assert list(gradients) == list(run.trained)
            found |= {record: {n: g[row] for n, g in gradients.items()} for row, (record,) in enumerate(group)}
    for record, gradients in found.items():
        encoded = encode(tiny.tokenizer, examples[record], spec.max_tokens)
        for name, expected in gradients_by_definition(tiny, state, encoded).items():
            atol = 1e-5 * np.abs(expected).max() + 1e-7
            np.testing.assert_allclose(gradients[name].numpy(), expected, atol=atol)


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_a_record_s_gradient_of_r_has_the_same_bits_alone(rank):
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    fixed, gradients = (torch.randn(*shape, 4096, rank, generator=generator) for shape in ((), (6,)))
    torch.set_num_threads(1)  # as every private round
    try:
        many = projected(fixed, gradients)
        assert all(torch.equal(projected(fixed, gradients[:n]), many[:n]) for n in range(7))
    finally:
        torch.set_num_threads(threads)
    assert many.shape == (6, rank, rank)


def test_fed_sb_lowers_the_loss_and_moves_only_r(tiny, square_start, examples):
    losses: list[float] = []
    spec = SPEC.model_copy(update={"learning_rate": 5e-2, "epochs": 6})
    settings = {"round_index": 0, "rounds": 1, "seed_material": b"site"}
    result = train_round(
        tiny, square_start, examples, spec, SQUARE, on_step=lambda info: losses.append(info.loss), **settings
    )
    assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:3])
    changed = {n for n in square_start if not np.array_equal(result.adapter[n], square_start[n])}
    assert kinds(changed) == {"R"}
    assert result.adapter.shapes == square_start.shapes
    for parameter in lora_parameters(tiny.lora.model).values():
        assert parameter.grad is None


def test_fed_sb_goes_on_from_a_checkpoint_to_the_same_bits(tiny, square_start, examples, tmp_path):
    settings = {"round_index": 0, "rounds": 1, "seed_material": b"site"}
    whole = train_round(tiny, square_start, examples, SPEC, SQUARE, **settings)

    class Stop(Exception):
        pass

    def stop(info):
        if info.step == 4:
            raise Stop

    path = tmp_path / "checkpoint"
    with pytest.raises(Stop):
        train_round(
            tiny, square_start, examples, SPEC, SQUARE, checkpoint=path, checkpoint_every=3, on_step=stop, **settings
        )
    seen: list[int] = []
    again = train_round(
        tiny, square_start, examples, SPEC, SQUARE, checkpoint=path, on_step=lambda i: seen.append(i.step), **settings
    )
    assert seen == [4, 5, 6]
    assert again.adapter == whole.adapter


def test_a_finished_fed_sb_adapter_is_a_plain_peft_folder(tmp_path, square_start, tiny):
    state = moved(square_start, 2)
    adapter = adapter_of(state)
    adapter.save_peft(tmp_path / "adapter", TINY, SQUARE)
    assert load_peft(tmp_path / "adapter") == adapter
    ids = torch.arange(2, 40).unsqueeze(0)
    fresh = load_base(TINY)
    loaded = peft.PeftModel.from_pretrained(fresh.model, str(tmp_path / "adapter"))
    model = attach_lora(tiny, SQUARE)
    set_adapter_state(model, adapter)
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


# ---- FedProx


def distance(result, start) -> float:
    return float(np.linalg.norm(result.adapter.flatten() - start.flatten()))


def test_the_proximal_term_pulls_back_to_the_round_s_start(tiny, start, examples):
    settings = {"round_index": 0, "rounds": 1, "seed_material": b"site"}
    specs = [SPEC.model_copy(update={"proximal_mu": mu}) for mu in (0.0, 10.0, 1000.0)]
    found = [distance(train_round(tiny, start, examples, spec, LORA, **settings), start) for spec in specs]
    assert found[0] > 1.2 * found[1] > 1.2 * found[2]


def test_it_adds_mu_times_the_distance_after_clipping_and_noise(tiny, start, examples, monkeypatch):
    """In a private step the gradient that the optimiser sees is the noisy one plus the pull."""
    spec = SPEC.model_copy(update={"proximal_mu": 3.0})
    dp = DpSpec(mode="local", unit="record", target_epsilon=1.0, noise_multiplier=1.0, steps=2, sampling_rate=0.5)
    run = PrivateRound(tiny, start, examples, spec, LORA, Private(dp), Position(0, 1))
    seen = []
    with run.started():
        run._advance()
        before = {n: p.detach().clone() for n, p in run.trained.items()}
        backward = run.backward

        def remembered():
            measured = backward()
            seen.append({n: p.grad.clone() for n, p in run.trained.items()})
            return measured

        monkeypatch.setattr(run, "backward", remembered)
        run._advance()
        for name, parameter in run.trained.items():
            expected = seen[0][name] + 3.0 * (before[name] - torch.tensor(np.array(start[name])))
            torch.testing.assert_close(parameter.grad, expected)


# ---- a lower rank


def test_a_site_of_lower_rank_moves_the_first_rows_and_columns_only(tiny, start, examples):
    other = start.unflatten(start.flatten() + np.float32(0.01))
    lora = LORA.model_copy(update={"rank": 4})
    part = cut(other, 1)
    assert spec_of_rank(lora, 1).alpha / 1 == lora.alpha / lora.rank
    settings = {"round_index": 0, "rounds": 1, "seed_material": b"site"}
    trained = train_round(tiny, part, examples, SPEC, spec_of_rank(lora, 1), **settings).adapter
    whole = padded(trained, other)
    assert cut(whole, 1) == trained
    for name, tensor in whole.items():
        rest, before = (t[1:] if ".lora_A." in name else t[:, 1:] for t in (tensor, other[name]))
        assert np.array_equal(rest, before)
    assert (trained.flatten() != part.flatten()).any()


@pytest.mark.parametrize("strategy", ["ffa", "rolora", "fedsvd"])
def test_padded_updates_keep_the_sum_exact(start, strategy):
    """The mean of the sites' changes of B A is the change of the mean, ranks mixed; fedsvd's factors included."""
    rng = np.random.default_rng(0)
    at = start.unflatten(start.flatten() + rng.normal(0, 0.3, start.size).astype(np.float32))
    for round_index in (0, 1):
        ends = []
        for rank in (1, 2, 4):
            part = cut(at, rank)
            size = shared_vector(strategy, part, round_index).size
            step = rng.normal(size=size).astype(np.float32)
            ends.append(padded(apply_update(strategy, part, step, round_index), at))
        updates = [local_update(strategy, at, end, round_index) for end in ends]
        after = apply_update(strategy, at, np.mean(updates, axis=0, dtype=np.float64).astype(np.float32), round_index)
        after = refactored(after) if strategy == "fedsvd" else after
        wanted = [np.mean(p, axis=0) for p in zip(*map(products, ends), strict=True)]
        for found, expected in zip(products(after), wanted, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("strategy", ["fedsa", "rolora", "fed-sb"])
def test_private_training_moves_what_the_strategy_trains(tiny, start, square_start, examples, strategy):
    """With fedsa the B that stays is clipped and noised with A: A's gradient depends on it."""
    dp = DpSpec(mode="local", unit="record", target_epsilon=1.0, noise_multiplier=1.0, steps=1, sampling_rate=0.5)
    lora, at = LORA.model_copy(update={"strategy": strategy}), square_start if strategy == "fed-sb" else start
    settings = {"private": Private(dp), "round_index": 1, "rounds": 2}
    after = train_private_round(tiny, at, examples, SPEC, lora, **settings).adapter
    changed = {n for n in at if not np.array_equal(at[n], after[n])}
    assert changed == set(trained_names(strategy, at, 1))
