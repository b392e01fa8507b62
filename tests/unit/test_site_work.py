"""What a site's training depends on: the run id too, so that two runs of one plan never repeat an update."""

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
