"""What the page says of groups: who was in which opened sum, what it was worth, and on whose word."""

from __future__ import annotations

import dataclasses

import pytest

from fedsec.plan.explain import explain
from fedsec.report.groups import Grouping, grouping
from fedsec.report.page import page
from fedsec.report.protection import protection
from fedsec.report.rounds import asked
from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.masking.transitions import GROUPED, MASKED, PLAIN, SEALED
from fedsec_secure.record.entries import DrawEntry, SurvivorsEntry
from tests.e2e.federation import RUN, Keys, make_plan
from tests.unit.report.report_pages import Page, real

ZERO = "0" * 64
GROUPS = (("site-a", "site-b", "site-e", "site-h"), ("site-c", "site-d", "site-f", "site-g"))
PLAN = make_plan(Keys.generate(8), rule="group-influence", weighting={"cap": 0.2})
DRAWN = DrawEntry(run=RUN, groups=GROUPS, commitments_sha256=ZERO, reveals_sha256=ZERO)


def summed(number: int, *groups: tuple[str, ...]) -> list[SurvivorsEntry]:
    return [SurvivorsEntry(run=RUN, round=number, sites=sites, uploads_sha256=ZERO) for sites in groups]


def noted(number: int, levels: list[int], step: float = 1.0, **more):
    return {"event": "groups", "round": number, "levels": levels, "step": step, "groups": [], "weights": [], **more}


ENTRIES = [DRAWN, *summed(0, GROUPS[0], GROUPS[1][1:]), *summed(1, *GROUPS), *summed(2, *GROUPS)]
EVENTS = [noted(0, [20, 60], 1.25), noted(1, [80, 255], 0.5), noted(1, [80, 255], 0.5), noted(2, [3, 4])]
FOUND = grouping(PLAN, ENTRIES, EVENTS, [0, 1])


def test_sums_losses_and_shares_by_round():
    """By hand: level 20 weighs 24109, level 60 3263; a cap of a fifth over 4 + 3 sites cuts the first to 9789."""
    assert FOUND.drawn == GROUPS
    assert [r.number for r in FOUND.rounds] == [1, 2], "a round that is not over has no place on the page"
    first, second = FOUND.rounds
    assert [g.sites for g in first.groups] == [GROUPS[0], GROUPS[1][1:]]
    assert [g.away for g in first.groups] == [(), ("site-c",)]
    assert [g.loss for g in first.groups] == ["1.00", "3.00"]
    total = 4 * 9789 + 3 * 3263
    assert [g.share for g in first.groups] == pytest.approx([4 * 9789 / total, 3 * 3263 / total])
    assert first.groups[0].each == pytest.approx(0.2, abs=1e-4)
    assert first.worth == pytest.approx(total**2 / (4 * 9789**2 + 3 * 3263**2))
    assert first.step == 1.25
    assert [g.loss for g in second.groups] == ["4.00 or more", "no number"]
    assert [g.each for g in second.groups] == [0.125, 0.125]
    assert second.worth == pytest.approx(8)


def test_other_rules_and_a_run_without_a_draw_have_no_groups():
    assert grouping(make_plan(Keys.generate(8)), ENTRIES, EVENTS, [0, 1]) == Grouping((), ())
    assert grouping(PLAN, ENTRIES[1:], EVENTS, [0, 1]) == Grouping((), ())


@pytest.mark.parametrize("levels", [[20], [20, 60, 80], [20, 81], [20, -1]])
def test_losses_that_do_not_fit_the_log_are_refused(levels):
    with pytest.raises(VerificationError, match="a loss for each of the 2 groups of round 1"):
        grouping(PLAN, ENTRIES, [noted(0, levels)], [0])
    with pytest.raises(ConfigError, match=r"a line of groups .*\(step\)"):
        grouping(PLAN, ENTRIES, [noted(0, [20, 60], step="<b>")], [0])


@pytest.fixture(scope="module")
def grouped() -> str:
    data = dataclasses.replace(
        real(), plan=PLAN, statements=tuple(explain(PLAN)), protection=protection(PLAN), grouping=FOUND
    )
    return page(data)


def test_the_page_says_it_in_an_officers_words(grouped):
    found = Page(grouped)
    table = found.text("group-sums")
    assert "1 × 1.25 5.77 1 all 4 – 1.00 80.0 % 20.0 % 2 site-d, site-f, site-g site-c 3.00 20.0 % 6.7 %" in table
    assert "2 × 0.5 8.00 1 all 4 – 4.00 or more 50.0 % 12.5 % 2 all 4 – no number 50.0 % 12.5 %" in table
    rounds = found.text("rounds")
    assert "all sites drew two groups together" in rounds
    assert "Group 2 site-c, site-d, site-f, site-g" in rounds
    assert "hides among the sites of its own group’s sum, not among all" in rounds
    assert "tried each sum by itself on 5 public examples (shared)" in rounds
    assert "one site weighs at most 20%" in rounds
    assert "the one of 0.5, 0.75, 1, 1.25, 1.5" in rounds
    assert "no site measures them, and nobody can later, since the sums are deleted" in rounds
    assert "scores that the sites published" not in rounds
    assert "by the losses of the sums of two groups; no site above 20% of a round" in found.text("allowed")
    assert "How badly a model predicts" in found.text("terms")


def test_a_page_without_groups_says_nothing_of_them():
    assert "groups" not in Page(page(real())).ids()
    assert "How badly a model predicts" not in Page(page(real())).text("terms")


def test_every_exchange_of_a_round_has_its_words():
    """A refusal stands on the page with what the site was asked for."""
    names = {
        *GROUPED.exchanges,
        *MASKED.exchanges,
        *PLAIN.exchanges,
        *SEALED.exchanges,
        "key-offer",
        "key-deal",
        "key-take",
        "commit",
        "reveal",
        "draw",
        "keys",
        "deal",
        "step",
    }
    assert [name for name in sorted(names) if asked(name) == name] == []
