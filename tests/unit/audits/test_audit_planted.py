"""Every planted fault is found, in the row that has to find it.

What is left to chance is whether a fault is missed, which is rarer than 10^-5 for the bounds on epsilon (the fault is
four deviations away or more) and far below 10^-9 elsewhere. That a correct build is refuted is in test_audit_mechanism.
"""

from pathlib import Path

import pytest

from fedsec.audits import planted
from fedsec.audits.crafted import dimension, dp_of, take_steps, tiny_base
from fedsec.audits.outcome import Row
from fedsec.audits.planted import FAULTS, find, find_all
from fedsec.audits.setting import LORA, Setting
from fedsec.plan import cost
from fedsec.privacy.distributed import DistributedStep
from fedsec.training.objective import RecordLosses
from fedsec.training.private import loop, mechanism
from fedsec.training.private.clipping import clip_and_sum
from fedsec.training.private.mechanism import NoisySum
from fedsec_secure.numeric.discrete_gaussian import DiscreteGaussian
from fedsec_secure.numeric.poisson_sampling import PoissonSampler

ROOT = Path(__file__).resolve().parents[3]
SETTING = Setting(trials=3000)


def installed():
    return (
        RecordLosses.per_record, loop.clip_and_sum, mechanism.DiscreteGaussian, PoissonSampler.sample, NoisySum.release,
        DistributedStep.honest, DistributedStep.noise, DistributedStep.event, cost.records_sampled, loop.drawn_units,
    )  # fmt: skip


LONG = ("noise: half", "clipping: only the sum", "shared noise: records charged as one a patient")
"""Found by bounds on epsilon, which take many trials; others of their kinds are found at once."""


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, marks=pytest.mark.slow) if f.name in LONG else f for f in FAULTS],
    ids=[fault.name for fault in FAULTS],
)
def test_a_planted_fault_is_found_and_taken_out_again(fault):
    before = installed()
    with fault.plant():
        assert installed() != before
    row = find(fault, SETTING)
    assert row.held, row
    assert row.expected == f"refuted by {fault.found_by}"
    assert installed() == before
    assert before[1:3] == (clip_and_sum, DiscreteGaussian)


def test_the_known_faults_are_among_them():
    assert len(FAULTS) == 15
    for word in ("token", "half", "10 %", "tensor by tensor", "shuffled", "shared", "charged as one", "no limit"):
        assert any(word in fault.name for fault in FAULTS), word


def test_the_page_has_a_line_for_each_fault():
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    table = page.split("| planted fault", 1)[1].split("\n\n", 1)[0]
    assert table.count("\n| ") == len(FAULTS)


def test_no_noise_at_all_is_found():
    """One coordinate is as good as all of it."""
    base = tiny_base()
    with planted.mock.patch.object(NoisySum, "release", lambda self, total: dict(total)):
        (row,) = [
            row for row in planted.of_units(Setting(sampling_rate=1.0, trials=1200), lambda *_: None) if not row.held
        ]
        assert row.numbers["lower_bound"] > 1.5 * row.numbers["theory"]
        seen = list(take_steps(base, LORA, dp_of(1.0, 1.0, 2, 1e-5), planted.np.zeros((1, dimension(base, LORA)))))
    assert not seen[0].released.any()


def test_the_self_test_has_a_row_for_the_build_and_each_fault(monkeypatch):
    monkeypatch.setattr(planted, "audit", lambda setting, watch: [Row("a", "b", "c", True)])
    monkeypatch.setattr(planted, "FAULTS", tuple(f for f in FAULTS if f.name == "noise: from a seed"))
    assert [(row.name, row.held) for row in find_all(SETTING)] == [
        ("none: the build as it is", True),
        ("noise: from a seed", True),
    ]
    monkeypatch.setattr(planted, "audit", lambda setting, watch: [Row("a", "b", "c", False)])
    assert next((row.got, row.held) for row in find_all(SETTING)) == ("a: c", False)
