"""The HTML itself: self-contained, the same each time, complete, and safe with any text."""

import dataclasses
import math
import subprocess
import sys

import pytest

from fedsec.plan.cost import cost
from fedsec.plan.specs import DpSpec
from fedsec.privacy.shown import shown_epsilon
from fedsec.report.page import page
from tests.unit.cli.smoke import finished_run
from tests.unit.report.report_pages import HOSTILE, Page, example, real

ADDRESSES = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href", "cite", "formaction"}


@pytest.fixture(scope="module")
def html() -> str:
    return page(example())


def test_nothing_is_fetched(html):
    tags = Page(html).tags
    found = [(tag, value) for tag, attributes in tags for name, value in attributes.items() if name in ADDRESSES]
    assert len(found) > 8  # the list of questions, and parts of figures
    assert [(tag, value) for tag, value in found if not (value or "").startswith("#")] == []
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed", "base", "form", "img"}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = [a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_whether_one_machine_saw_everything_is_said():
    one, apart = (Page(page(dataclasses.replace(real(), distributed=d))).text("machine") for d in (False, True))
    assert "All sites and the coordinator ran in one process" in one
    assert "controls that machine can read everything" in one
    assert "joined from processes of their own" in apart
    assert "one process" not in apart


def test_hostile_text_stays_text(html):
    assert HOSTILE not in html
    assert HOSTILE in Page(html).text("refusals")


def test_every_id_is_there_once_and_every_link_leads_to_one(html):
    found = Page(html)
    ids = found.ids()
    assert len(ids) == len(set(ids)) > 20
    links = {a["href"] for tag, a in found.tags if a.get("href")}
    assert {link for link in links if (link or "#")[1:] not in ids} == set()


def test_pictures_are_drawn_and_described(html):
    pictures = [a for tag, a in Page(html).tags if tag == "svg"]
    assert len(pictures) == 4
    assert all(p["role"] == "img" and len(p["aria-label"] or "") > 40 for p in pictures)
    assert "harbour: 0.46, the weakest" in str(pictures[2]["aria-label"])
    assert "xmlns" not in html


def test_whatever_officers_were_told_before_signing_stands_on_the_page(html):
    text = Page(html).text()
    assert len(example().statements) > 8
    assert [s.text for s in example().statements if s.text not in text] == []


def test_the_page_is_the_same_in_another_process(tmp_path):
    out = tmp_path / "page.html"
    code = "from fedsec.cli import main; main()"
    command = [sys.executable, "-c", code, "report", str(finished_run()), "--out", str(out), "--json"]
    subprocess.run(command, check=True, capture_output=True)
    assert out.read_text() == page(real())


def test_a_run_that_is_not_finished_says_so_first():
    site = real().budgets[0]
    open_budgets = tuple(dataclasses.replace(site, site=b.site, attested=False, floors=None) for b in real().budgets)
    unfinished = dataclasses.replace(
        real(), certified=None, rounds=real().rounds[:1], ending=None, budgets=open_budgets
    )
    found = Page(page(unfinished))
    assert found.text("unfinished") == "This run is not finished; nothing below is certified."
    assert "of its two rounds, one is over" in found.text("summary")
    assert "There is no certificate" in found.text("certificate")
    assert "none has yet" in found.text("floors")
    assert "none has yet" in found.text("budget")
    absent = (open_budgets[0], *real().budgets[1:])
    assert "clifton not attested" in Page(page(dataclasses.replace(real(), budgets=absent))).text("floors")
    assert "unfinished" not in Page(page(real())).ids()


def in_mode(mode: str) -> Page:
    from fedsec.plan.explain import explain
    from fedsec.report.protection import protection

    plan = real().plan.model_copy(update={"secure": real().plan.secure.model_copy(update={"mode": mode})})
    data = dataclasses.replace(real(), plan=plan, statements=tuple(explain(plan)), protection=protection(plan))
    return Page(page(data))


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_an_epsilon_is_about_one_unit_of_the_plan(unit):
    plan = real().plan.model_copy(update={"dp": DpSpec(unit=unit)})
    found = Page(page(dataclasses.replace(real(), plan=plan)))
    assert f"what a release can tell about one {unit}:" in found.text("terms")


def test_open_sums_are_said_plainly():
    found = in_mode("none")
    assert "no masks: the coordinator saw every site’s update" in found.text("summary")
    assert "The coordinator saw every site’s update as it is" in found.text("exposed")


def test_a_shared_key_is_said_plainly():
    found = in_mode("he")
    assert "Together with any one site, or its key, it can open every one of them" in found.text("summary")
    assert "With the key of any one site the coordinator opens every site’s update" in found.text("exposed")


@pytest.mark.parametrize("mode", ["mask", "he-mask"])
def test_masks_need_no_such_warning(mode):
    assert "exposed" not in in_mode(mode).ids()


def test_a_finite_budget_is_shown_against_the_plan():
    asked = {"mode": "local", "target_epsilon": 8.0, "target_delta": 1e-6, "noise_multiplier": 1.0}
    plan = real().plan.model_copy(update={"dp": real().plan.dp.model_copy(update=asked)})
    planned = cost(plan)
    spent = [(0.0, 3.0), (1.0, 4.5), *[(0.0, 2.0)] * 4]
    budgets = [dataclasses.replace(b, before=x, after=y) for b, (x, y) in zip(real().budgets, spent, strict=True)]
    data = dataclasses.replace(real(), plan=plan, budgets=tuple(budgets))
    summary = Page(page(data)).text("summary")
    assert f"ε = {shown_epsilon(planned.epsilon)} at δ = 1e-06 for the patient being there or not" in summary
    assert f"{planned.replace_one:.4g} for its content" in summary
    text = Page(page(data)).text("budget")
    assert "Of the plan’s ε = 8, at least 3.5 is left at every site that attests." in text
    assert "line: what the plan may charge by itself; grey: charged before it, ε = 8" in text
    budgets[0] = dataclasses.replace(budgets[0], after=math.inf)
    assert "and has a bound" in Page(page(dataclasses.replace(data, budgets=tuple(budgets)))).text("budget")


def with_budget(target, after, unit="patient"):
    asked = {"mode": "local", "unit": unit, "target_epsilon": target, "target_delta": 1e-6, "noise_multiplier": 1.0}
    plan = real().plan.model_copy(update={"dp": real().plan.dp.model_copy(update=asked)})
    budgets = tuple(dataclasses.replace(b, before=0.0, after=after) for b in real().budgets)
    return dataclasses.replace(real(), plan=plan, budgets=budgets)


def test_charges_of_all_studies_are_no_overrun_of_one():
    data = with_budget(8.0, 7.986)
    assert "line: what the plan may charge, ε = 8" in Page(page(data)).text("budget")
    budgets = tuple(dataclasses.replace(b, before=7.9, after=9.8) for b in data.budgets)
    later = dataclasses.replace(data, budgets=budgets)
    text = Page(page(later)).text("budget")
    alone = shown_epsilon(cost(later.plan).charged)
    assert f"as earlier studies charged the same patients: one run of this plan charges {alone} by itself." in text
    assert "is left at every site" not in text


@pytest.mark.parametrize(("after", "left"), [(6.7645, "1.23"), (7.99999994, "5.99e-08"), (8.0, "0"), (0.0, "8")])
def test_what_is_left_at_least_is_never_rounded_up(after, left):
    assert f"at least {left} is left" in Page(page(with_budget(8.0, after))).text("budget")
    assert float(left) <= 8.0 - after


def test_what_records_were_charged_is_not_said_to_be_in_the_account_of_patients():
    patient, record = (Page(page(with_budget(8.0, 3.0, unit))) for unit in ("patient", "record"))
    assert "over all studies ever" in record.text("summary")
    assert "over everything that was ever released" in record.text("budget")
    for section in ("summary", "budget"):
        assert "what studies per record charged is in no account of patients" in patient.text(section)
        assert "studies ever" not in patient.text(section)
        assert "everything that was ever released" not in patient.text(section)


@pytest.mark.parametrize(("dp", "secure"), [("local", "mask"), ("distributed", "mask"), ("none", "none")])
def test_no_floor_is_said_to_have_held_that_nobody_held(dp, secure):
    """Sums with noise may differ by a single site, and without masks nothing keeps any two sums apart."""
    assert "clifton 5 2 50 % none" in Page(page(real())).text("floors")
    asked = {"mode": dp, "target_epsilon": 8.0, "target_delta": 1e-6, "noise_multiplier": 1.0, "dimension": 1000}
    asked = asked if dp != "none" else {"mode": dp}
    plan = real().plan
    changed = {"dp": plan.dp.model_copy(update=asked), "secure": plan.secure.model_copy(update={"mode": secure})}
    text = Page(page(dataclasses.replace(real(), plan=plan.model_copy(update=changed)))).text("floors")
    assert "clifton 5 any 50 % none" in text


def test_where_no_colluder_is_counted_sites_are_not_said_to_be_covered():
    asked = {"mode": "distributed", "target_epsilon": 8.0, "target_delta": 1e-6, "noise_multiplier": 1.0}
    asked |= {"dimension": 1000, "colluders": 0}
    plan = real().plan.model_copy(update={"dp": real().plan.dp.model_copy(update=asked)})
    summary = Page(page(dataclasses.replace(real(), plan=plan))).text("summary")
    assert "tell, but not to a site that knows its own share of the noise, about one patient" in summary


def test_scores_between_rounds_make_a_curve():
    assert "asked for no scores between rounds" in Page(page(real())).text("results")
    curve = {"harbour": [(1, 0.2), (2, 0.5)], "priory": [(1, 0.4), (2, 0.7)]}
    with_curve = Page(page(dataclasses.replace(example(), curves={"entities": curve})))
    (label,) = (str(a["aria-label"]) for tag, a in with_curve.tags if tag == "svg" and "round to round" in str(a))
    assert "0.30 after round 1, 0.60 after round 2" in label
    assert "asked for no scores" not in with_curve.text("results")
