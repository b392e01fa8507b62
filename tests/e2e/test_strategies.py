"""Whole federations under every strategy: masked and plain sums agree, and every site comes to the same adapter."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedsec.plan.specs import DpSpec, EvaluationSpec, ServerSpec, TrainingSpec
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import after_sum
from fedsec.training.strategies import (
    apply_update,
    local_update,
    personal_names,
    personal_vector,
    with_personal,
)
from fedsec_secure.errors import VerificationError
from tests.e2e.federation import RUN, ArithmeticWork, Federation, Keys, Steady, make_plan, tiny_base, tiny_work

SITES, ROUNDS = 3, 3
STRATEGIES = ("fedit", "ffa", "rolora", "fedsa", "fedsvd", "fed-sb")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


def by_hand(plan, works) -> tuple[AdapterState, dict[str, AdapterState]]:
    """The same rounds with plain float64 means; and what each site has at the end."""
    strategy = plan.lora.strategy
    state = works[0].initial_adapter()
    own: dict[str, AdapterState] = {w.name: state for w in works}
    for index in range(plan.rounds):
        updates = []
        for work in works:
            factors = AdapterState({n: t for n, t in state.items() if not n.startswith("exp_avg")})
            kept = personal_names(strategy, factors)
            start = with_personal(strategy, factors, own[work.name].select(kept)) if kept else factors
            own[work.name] = work.train(start, RUN, index, None)
            updates.append(local_update(strategy, start, own[work.name], index).astype(np.float64))
        state = after_sum(plan, index, state, np.mean(updates, axis=0).astype(np.float32))
    return state, own


def compared(folder, keys, plan, make) -> AdapterState:
    """A masked run, which must end where the plain rounds do."""
    with Federation(folder, keys, plan, work=make) as federation:
        adapter = federation.run()  # enough sites signed the same digest in every round
        ends = {store.result(RUN, plan.rounds - 1) for store in federation.stores.values()}
    assert ends == {adapter.digest()}
    expected, _ = by_hand(plan, [make(n, plan) for n in keys.sites])
    assert adapter.shapes == expected.shapes
    assert {n.rsplit(".", 2)[-2] for n in adapter} == {"lora_A", "lora_B"}, "a finished adapter is plain LoRA"
    np.testing.assert_allclose(adapter.flatten(), expected.flatten(), atol=1e-4)
    return adapter


@pytest.mark.parametrize("strategy", ["fedit", "rolora", "fed-sb"])
def test_an_optimiser_on_the_masked_sum_ends_where_it_does_on_a_plain_one(tmp_path, keys, strategy):
    server = ServerSpec(optimiser="adam", learning_rate=0.01)
    plan = make_plan(keys, rounds=ROUNDS, strategy=strategy, server=server, ring="2x32")
    adapter = compared(tmp_path, keys, plan, Steady)
    averaged, _ = by_hand(make_plan(keys, rounds=ROUNDS, strategy=strategy), [Steady(n, plan) for n in keys.sites])
    assert np.abs(adapter.flatten() - averaged.flatten()).max() > 1e-3, "Adam's steps are not the mean's"


@pytest.mark.parametrize("strategy", ["ffa", "rolora", "fedsa", "fedsvd", "fed-sb"])
def test_the_tiny_model_learns_the_same_under_masks(tmp_path, keys, strategy):
    training = TrainingSpec(epochs=1, examples_per_round=4, learning_rate=1e-2, threads=1)
    sha256 = tiny_base().weights_sha256
    plan = make_plan(keys, strategy=strategy, ring="2x32", training=training, weights_sha256=sha256)
    adapter = compared(tmp_path, keys, plan, tiny_work)
    start = tiny_work("site-a", plan).initial_adapter()
    changed = {n for n in adapter if not np.array_equal(adapter[n], start[n])}
    both = {n for n in adapter if ".lora_A." in n or strategy != "fedsa"}
    firsts = {n for n in adapter if ".lora_A." in n}
    assert changed == {"ffa": both - firsts, "fed-sb": both - firsts, "fedsa": firsts}.get(strategy, both)


def test_fed_sb_takes_noisy_steps_together(tmp_path, keys):
    """With keys shared ahead for two rounds of three: moments of R travel, and the last round leaves plain LoRA."""
    size = 4 * 2 * 2  # four modules, rank 2
    dp = DpSpec(mode="distributed", unit="record", target_epsilon=8.0, target_delta=1e-5, noise_multiplier=1.0,
                sampling_rate=0.1, keys_ahead=2, dimension=size)  # fmt: skip
    plan = make_plan(keys, rounds=3, strategy="fed-sb", dp=dp, training=TrainingSpec(batch_size=1))
    with Federation(tmp_path, keys, plan) as federation:
        adapter, start = federation.run(), federation.initial()
    squares = [n for n in adapter if ".lora_B." in n and adapter[n].any()]
    assert len(squares) == 4
    assert all(np.array_equal(adapter[n], start[n]) for n in adapter if ".lora_A." in n)


class TestFedsa:
    def test_each_site_goes_on_from_its_own_b_and_shares_none(self, tmp_path, keys):
        plan = make_plan(keys, rounds=ROUNDS, strategy="fedsa", ring="2x32")
        with Federation(tmp_path, keys, plan, work=Steady) as federation:
            adapter = federation.run()
            kept = {n: s.personal.newest(RUN, ROUNDS) for n, s in federation.stores.items()}
            files = sorted(p.name for p in (tmp_path / "state" / "site-a").glob("*.personal"))
        assert files == [f"{RUN}-0000.personal", f"{RUN}-0002.personal"]
        assert all((tmp_path / "state" / "site-a" / name).stat().st_mode & 0o777 == 0o600 for name in files)
        assert not any(adapter[n].any() for n in adapter if ".lora_B." in n), "no B is released"
        _, own = by_hand(plan, [Steady(n, plan) for n in keys.sites])
        names = personal_names("fedsa", adapter)
        for site, values in kept.items():
            assert len(values) == len(own[site].select(names))
        assert len({values.tobytes() for values in kept.values()}) == SITES
        # In round 0 nothing was rounded yet: its B is what training gave, to the bit.
        first = np.fromfile(tmp_path / "state" / "site-a" / f"{RUN}-0000.personal", "<f4")
        work = Steady("site-a", plan)
        assert np.array_equal(first, work.train(work.initial_adapter(), RUN, 0, None).select(names))

    def test_its_baseline_starts_from_a_and_b_of_its_own(self, tmp_path, keys):
        evaluation = EvaluationSpec(baselines=("single",))
        plan = make_plan(keys, rounds=1, strategy="fedsa", evaluation=evaluation)
        with Federation(tmp_path, keys, plan) as federation:
            runner, start = federation.runner(), federation.initial()
            runner.rounds(start)
            scores = runner.baselines(bytes)
            path = tmp_path / "state" / "site-a" / f"{RUN}-0000.personal"
            path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
            with pytest.raises(VerificationError, match="lost its own part"):
                federation.stores["site-a"].personal.newest(RUN, 1)
        for site, data in scores.items():
            trained = ArithmeticWork(site, plan).train(start, RUN, 0, None)
            own = apply_update("fedsa", start, local_update("fedsa", start, trained, 0), 0)
            own = with_personal("fedsa", own, personal_vector("fedsa", trained))
            assert json.loads(data)["digest"] == own.digest().hex()
