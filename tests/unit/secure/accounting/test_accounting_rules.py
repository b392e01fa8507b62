"""The filter: nothing above the budget is admitted, nothing is charged twice, and nothing ever comes back."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec_secure.accounting.chain import History, next_entry
from fedsec_secure.accounting.entries import Open, Reserve, Spend
from fedsec_secure.accounting.events import NonPrivateRelease, SelfComposed
from fedsec_secure.accounting.rules import Budget, charged, composed_epsilon, may_reserve, may_spend
from fedsec_secure.errors import ConfigError, LocalMisuseError, PrivacyBudgetExceededError
from tests.unit.secure.accounting.accounting_additive import (
    CLINIC,
    WARD,
    AdditiveAccountant,
    Unable,
    chain_of,
    charge,
    costs,
)

ADD = AdditiveAccountant()
DELTA = 1e-5
FOUR = (Budget(4.0, DELTA),)
BARE = NonPrivateRelease()


def history_of(*charges) -> History:
    history = History()
    for stored in chain_of(Open(WARD, "ward"), Open(CLINIC, "clinic"), *(Reserve(c) for c in charges)):
        history.add(stored)
    return history


def spent(history, unit="patient", population=WARD) -> float:
    return composed_epsilon(charged(history, population, unit), (), ADD, DELTA, unit)


def test_the_budget_holds_to_the_last_bit():
    history = history_of(charge(0, costs(2.0)), charge(1, costs(1.0)))
    assert may_reserve(history, charge(2, costs(1.0)), FOUR, ADD) is None
    with pytest.raises(PrivacyBudgetExceededError, match=r"at most epsilon 4 .* would make it 4\.5: 2 earlier"):
        may_reserve(history, charge(2, SelfComposed(costs(0.5), 3)), FOUR, ADD)
    smallest_above = (Budget(math.nextafter(4.0, 0), DELTA),)
    with pytest.raises(PrivacyBudgetExceededError):
        may_reserve(history, charge(2, costs(1.0)), smallest_above, ADD)


def test_every_budget_holds():
    other = b"q" * 32
    history = history_of(charge(0, costs(2.0), plan=other))
    mine = Budget(1.0, DELTA, "plan")
    assert may_reserve(history, charge(1, costs(1.0)), (*FOUR, mine), ADD) is None
    with pytest.raises(PrivacyBudgetExceededError, match="of this plan"):
        may_reserve(history, charge(1, costs(2.0)), (*FOUR, mine), ADD)
    with pytest.raises(PrivacyBudgetExceededError, match="of this population"):
        may_reserve(history, charge(1, costs(4.0)), (*FOUR, Budget(9.0, DELTA, "plan")), ADD)


def test_populations_are_accounts_of_their_own_and_patients_count_no_records():
    history = history_of(charge(0, costs(4.0)))
    with pytest.raises(PrivacyBudgetExceededError):
        may_reserve(history, charge(1), FOUR, ADD)
    assert may_reserve(history, charge(1, population=CLINIC), FOUR, ADD) is None
    records = history_of(charge(0, costs(4.0), unit="record"))
    assert may_reserve(records, charge(1, costs(4.0)), FOUR, ADD) is None
    assert (spent(records), spent(records, "record")) == (0, 4)


def test_what_protects_patients_counts_against_their_records_as_an_exchange():
    history = history_of(charge(0, costs(1.0)), charge(1, costs(0.5), unit="record"))
    assert (spent(history), spent(history, "record")) == (1, 2.5)
    assert may_reserve(history, charge(2, SelfComposed(costs(0.5), 3), unit="record"), FOUR, ADD) is None
    with pytest.raises(PrivacyBudgetExceededError, match=r"per record .* would make it 4\.5: 2 earlier"):
        may_reserve(history, charge(2, costs(2.0), unit="record"), FOUR, ADD)
    other = charge(2, costs(2.0), unit="record", plan=b"q" * 32)
    assert may_reserve(history, other, (Budget(2.0, DELTA, "plan"),), ADD) is None


def test_a_bare_release_is_infinite_for_every_unit_and_for_ever():
    history = history_of(charge(0, BARE, unit="record"))
    for unit in ("record", "patient"):
        assert spent(history, unit) == math.inf
        with pytest.raises(PrivacyBudgetExceededError, match="entry 3 released something without"):
            may_reserve(history, charge(1, unit=unit), (Budget(1e300, 0.99),), ADD)
    assert spent(history, population=CLINIC) == 0
    with pytest.raises(PrivacyBudgetExceededError, match="this release is without"):
        may_reserve(history_of(), charge(0, BARE), FOUR, ADD, allow_non_private=True)


def test_without_a_budget_the_policy_must_allow_it():
    for event in (BARE, costs(1.0)):
        with pytest.raises(PrivacyBudgetExceededError, match="found none"):
            may_reserve(history_of(), charge(0, event), (), ADD)
        assert may_reserve(history_of(), charge(0, event), (), ADD, allow_non_private=True) is None
    assert may_reserve(history_of(), charge(0, BARE), (), Unable(), allow_non_private=True) is None


def test_the_same_charge_again_is_the_same_reservation():
    full = charge(0, costs(4.0))
    history = history_of(full)
    assert may_reserve(history, full, FOUR, ADD) == history.reservation(3)
    assert may_reserve(history, full, (), ADD) == history.reservation(3)
    other = [
        replace(full, event=costs(2.0)),
        replace(full, event=BARE),
        replace(full, plan=b"q" * 32),
        replace(full, neighbours="replace-one"),
    ]
    for changed in other:
        with pytest.raises(LocalMisuseError, match="entry 3"):
            may_reserve(history, changed, (Budget(100.0, DELTA),), ADD)


def test_relations_do_not_mix():
    history = history_of(charge(0, neighbours="replace-one"))
    with pytest.raises(ConfigError, match="entry 3"):
        may_reserve(history, charge(1), FOUR, ADD)
    with pytest.raises(ConfigError, match="round 1"):
        may_reserve(history, charge(1, neighbours="replace-one"), FOUR, ADD)
    assert may_reserve(history, charge(1, neighbours="replace-one"), FOUR, AdditiveAccountant("replace-one")) is None
    bare = history_of(charge(0, BARE, neighbours="replace-one"))
    assert spent(bare) == math.inf


def test_an_accountant_that_cannot_tell_admits_nothing():
    with pytest.raises(ConfigError, match="cannot account"):
        may_reserve(history_of(), charge(), FOUR, Unable())

    class Broken(AdditiveAccountant):
        def __init__(self, answer: float) -> None:
            super().__init__()
            self.answer = answer

        def epsilon(self, events, delta, exchanged=()):
            return self.answer

    for answer in (math.nan, -1.0, -math.inf):
        with pytest.raises(LocalMisuseError, match="Broken"):
            may_reserve(history_of(), charge(), FOUR, Broken(answer))


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 0.1), (-1.0, 0.1), (math.inf, 0.1), (math.nan, 0.1), (1.0, 0.0), (1.0, 1.0)]
)
def test_budgets_have_bounds(epsilon, delta):
    with pytest.raises(ConfigError):
        Budget(epsilon, delta)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_deltas_have_bounds(delta):
    with pytest.raises(ConfigError):
        composed_epsilon((), (), ADD, delta, "patient")


def test_a_reservation_pays_for_one_output():
    history = history_of(charge())
    assert may_spend(history, 3, b"o" * 32)
    history.add(next_entry(history.head, 0, None, Spend(3, b"o" * 32)))
    assert not may_spend(history, 3, b"o" * 32)
    with pytest.raises(LocalMisuseError, match="another"):
        may_spend(history, 3, b"x" * 32)
    for sequence, released in ((2, b"o" * 32), (9, b"o" * 32), (3, b"short")):
        with pytest.raises(LocalMisuseError):
            may_spend(history, sequence, released)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "spend"]),
        st.integers(0, 5),
        st.sampled_from([costs(0.25), costs(0.5), costs(1.0), costs(2.0), BARE]),
        st.sampled_from(["record", "patient"]),
        st.binary(min_size=32, max_size=32),
    ),
    max_size=30,
)


def take(history, step, budgets, allow) -> str:
    """Do one step as a ledger does; says what came of it."""
    what, number, event, unit, released = step
    try:
        if what == "reserve":
            asked = charge(number, event, unit=unit)
            if may_reserve(history, asked, budgets, ADD, allow_non_private=allow) is not None:
                return "known"
            body = Reserve(asked)
        elif may_spend(history, 3 + number, released):
            body = Spend(3 + number, released)
        else:
            return "known"
    except (PrivacyBudgetExceededError, LocalMisuseError):
        return "refused"
    history.add(next_entry(history.head, 0, None, body))
    return what


@given(STEPS)
def test_whatever_is_asked_the_budget_holds_and_never_shrinks(steps):
    history = history_of()
    for step in steps:
        before = {unit: spent(history, unit) for unit in ("record", "patient")}
        count = len(history.reservations)
        outcome = take(history, step, FOUR, False)
        after = {unit: spent(history, unit) for unit in ("record", "patient")}
        assert all(0 <= before[unit] <= after[unit] for unit in after)
        # What protects patients keeps to their budget; it counts against records, of whom no more is charged then.
        assert after["patient"] <= 4
        assert outcome != "reserve" or after[step[3]] <= 4
        assert len(history.reservations) == count + (outcome == "reserve")
        assert outcome == "reserve" or after == before, "only a new reservation is charged, and spending is free"
        if outcome != "refused":
            head = history.head
            assert take(history, step, FOUR, False) == "known"
            assert history.head == head


@given(STEPS, st.randoms(use_true_random=False))
def test_the_order_of_charges_does_not_change_what_they_cost(steps, random):
    charges = {step[1]: charge(step[1], step[2], unit=step[3]) for step in steps if step[0] == "reserve"}
    shuffled = list(charges.values())
    random.shuffle(shuffled)
    for unit in ("record", "patient"):
        assert spent(history_of(*charges.values()), unit) == spent(history_of(*shuffled), unit)
