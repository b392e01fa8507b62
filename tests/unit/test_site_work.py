"""What a site's training depends on: the run id too, so that two runs of one plan never repeat an update."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedsec.plan.specs import DpSpec
from fedsec.site.work import LocalWork
from fedsec.study import trial
from fedsec.study.coordinate import Coordination
from fedsec.study.corpora import PublicSets
from fedsec.training.base_model import load_base
from fedsec.training.replicas import Replicas
from fedsec_secure.errors import ConfigError
from tests.e2e.federation import RUN, TINY, Keys, make_plan, tiny_base, tiny_examples, tiny_work


@pytest.fixture(scope="module")
def work():
    keys = Keys.generate(3)
    return tiny_work(next(iter(keys.sites)), make_plan(keys))


def test_two_runs_of_one_plan_train_differently_and_one_run_repeats(work, tmp_path):
    initial = work.initial_adapter()
    first = work.train(initial, RUN, 0, tmp_path / "a")
    assert first == work.train(initial, RUN, 0, tmp_path / "b")
    assert first != work.train(initial, "another-run", 0, tmp_path / "c")


@pytest.mark.parametrize("strategy", ["ffa", "rolora", "fedsvd"])
def test_a_site_of_lower_rank_has_an_update_of_zero_beyond_it(tmp_path, strategy):
    keys = Keys.generate(3)
    work = tiny_work("site-b", make_plan(keys, strategy=strategy, site_ranks={"site-b": 1}))
    start = work.initial_adapter()
    start = start.unflatten(start.flatten() + np.float32(0.1))
    for round_index in (0, 1):
        after = work.train(start, RUN, round_index, tmp_path / f"{round_index}")
        moved = {name: after[name] - start[name] for name in start}
        assert all(not (m[1:] if ".lora_A." in n else m[:, 1:]).any() for n, m in moved.items())
        kinds = {n.split(".")[-2] for n, m in moved.items() if m.any()}
        assert kinds == {"lora_A" if (strategy, round_index) == ("rolora", 1) else "lora_B"}


@pytest.mark.parametrize("strategy", ["fedsvd", "fed-sb"])
def test_alone_a_site_does_between_rounds_what_the_strategy_does(tmp_path, monkeypatch, strategy):
    keys = Keys.generate(3)
    work = tiny_work("site-a", make_plan(keys, strategy=strategy))
    scored = []
    monkeypatch.setattr(work, "_score", lambda adapter: scored.append(adapter) or {})
    first = work.train(work.initial_adapter(), RUN, 0, tmp_path / "first")
    assert work.single_scores(first, RUN, lambda index: tmp_path / f"single-{index}") == b"{}"
    (adapter,) = scored
    assert {n.split(".")[-2] for n in adapter} == {"lora_A", "lora_B"}
    for name in (n for n in adapter if ".lora_A." in n):
        np.testing.assert_allclose(adapter[name] @ adapter[name].T, np.eye(2), atol=1e-5)


@pytest.mark.parametrize(
    ("part", "whose"), [("examples", "its notes"), ("validation", "set"), ("held_out", "held-out notes")]
)
def test_what_cannot_be_scored_or_trained_on_is_said_before_anybody_asks(part, whose):
    """In a round the site would have trained, and been charged, for nothing."""
    plan, fit = make_plan(Keys.generate(3)), tiny_examples("site-a", 3)
    long = fit[0].model_copy(update={"answer": "drug | Drug\n" * plan.training.max_tokens})
    data = {"examples": fit, part: [*fit, long]}
    with pytest.raises(ConfigError, match=f"{whose}: example site-a0.*exceed training.max_tokens"):
        LocalWork("site-a", plan, Replicas(tiny_base()), **data)


@pytest.mark.parametrize("mode", ["none", "local"])
def test_a_token_that_the_base_has_not_is_said_before_anybody_asks(monkeypatch, mode):
    """A tokenizer may know more than the model has embeddings for; a step that drew such a note would fail."""
    base, fit = load_base(TINY), tiny_examples("site-a", 3)
    base.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    odd = fit[0].model_copy(update={"prompt": "Given <image> daily.", "text": "Given <image> daily."})
    dp = None if mode == "none" else DpSpec(mode=mode, target_epsilon=8.0)
    with pytest.raises(ConfigError, match="its notes: example site-a0#0: expected tokens below 258,"):
        LocalWork("site-a", make_plan(Keys.generate(3), dp=dp), Replicas(base), [*fit, odd])
    monkeypatch.setattr(trial, "load_base", lambda _: base)
    with pytest.raises(ConfigError, match="the notes: example site-a0#0: expected tokens below 258,"):
        trial.try_training(make_plan(Keys.generate(3), dp=dp), [*fit, odd], 3, 1)


def test_a_base_that_private_training_refuses_is_refused_before_anybody_asks(monkeypatch):
    """In a round the ledger would have been charged first."""
    base, keys, examples = tiny_base(), Keys.generate(3), tiny_examples("site-a", 3)
    monkeypatch.setitem(base.model._modules, "experts", torch.nn.Identity())
    for dp in (None, DpSpec(mode="distributed", target_epsilon=8.0, dimension=64)):
        LocalWork("site-a", make_plan(keys, dp=dp), Replicas(base), examples)
    local = make_plan(keys, dp=DpSpec(mode="local", target_epsilon=8.0))
    with pytest.raises(ConfigError, match=r"refuses records routed together.*set training\.batch_size = 1"):
        LocalWork("site-a", local, Replicas(base), examples)
    monkeypatch.setattr(trial, "load_base", lambda _: base)
    with pytest.raises(ConfigError, match="refuses records routed together"):
        trial.try_training(local, examples, 3, 1)


def test_a_coordinator_that_could_not_score_a_group_s_sum_asks_nobody(tmp_path):
    plan = make_plan(Keys.generate(6), rule="group-influence", weighting={"cap": 0.4})
    (fit,) = tiny_examples("shared", 1)
    long = fit.model_copy(update={"answer": "drug | Drug\n" * plan.training.max_tokens})
    folder = SimpleNamespace(plan=plan, path=tmp_path)
    one = Coordination(folder, None, Replicas(tiny_base()), PublicSets(validation=[fit, long]))
    with pytest.raises(ConfigError, match=r"the validation set: example shared0.*exceed training.max_tokens"):
        one.run(None, lambda number, state: state)
    assert not list(tmp_path.iterdir()), "nothing was begun"
