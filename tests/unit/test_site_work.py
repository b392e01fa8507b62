"""What a site's training depends on: the run id too, so that two runs of one plan never repeat an update."""

import numpy as np
import pytest

from tests.e2e.federation import RUN, Keys, make_plan, tiny_work


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
