"""A withdrawal or a revocation that comes while a run is on: the site answers nothing more, the others go on."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from fedsec.plan.approval import approve, read_approval
from fedsec.plan.init import OFFICER_KEY
from fedsec.plan.policy import draft_policy
from fedsec.plan.revocation import revoke
from fedsec.plan.sitefile import DataSection, SiteFile, load_site
from fedsec.plan.toml import write_toml
from fedsec.plan.withdrawal import withdraw
from fedsec.report.seal import finish_run
from fedsec.site.masked import MaskedAgent
from fedsec.study.federation import open_study
from fedsec.study.prepare import prepare_run
from fedsec.study.sites import authorise_site
from fedsec.study.verify import verify_run
from fedsec_secure.errors import AbortError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from tests.e2e.federation import Federation, Keys, make_plan
from tests.unit.cli.smoke import SMOKE

SITES = 4  # threshold and floor 3: one may be lost
ASH = SiteId("site-a")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


class Hospital:
    """The folder of one site with a real approval, and what arrives there before its nth answer."""

    def __init__(self, folder, keys, plan, arrives=None, before="mask"):
        self.now = datetime.datetime.now(datetime.UTC)
        self.officer, self.plan, self.arrives, self.before = keys.officers[ASH], plan, arrives, before
        self.policy = draft_policy(plan, self.now.replace(microsecond=0) + datetime.timedelta(days=9), max_runs=2)
        folder.mkdir()
        site = SiteFile(name=ASH, officer=self.officer.public.hex, data=DataSection(path="notes.jsonl"))
        (folder / "site.toml").write_text(write_toml(site, "A hospital"))
        self.site = load_site(folder / "site.toml")
        self.approval = approve(plan, self.policy, ASH, self.officer, self.policy.expires, self.now)
        self.site.approval_path.write_bytes(self.approval)
        self.asked, self.answered = [], []

    def put(self, name, data):
        self.site.revocations_path.mkdir(exist_ok=True)
        (self.site.revocations_path / name).write_bytes(data)

    def move_in(self, federation):
        """Take the place of the agent that is there."""
        old, store = federation.agents[ASH], federation.stores[ASH]

        def authorise():
            return authorise_site(self.site, self.plan, self.policy, store.runs.cohorts())

        self.agent = MaskedAgent(replace(old._id, authorise=authorise), self.plan, store, federation.works[ASH])
        federation.agents[ASH] = self

    def handle(self, name, body):
        self.asked.append(name)
        if name == self.before and self.arrives is not None:
            self.arrives(self)
        reply = self.agent.handle(name, body)
        self.answered.append(name)
        return reply


def run(tmp_path, keys, plan, hospital):
    with Federation(tmp_path / "run", keys, plan) as federation:
        hospital.move_in(federation)
        federation.run()
        return [e["sites"][ASH] for e in federation.events if e["event"] == "lost" and ASH in e["sites"]]


def withdrawn(hospital):
    nonce = read_approval(hospital.approval, ASH, [hospital.officer.public]).nonce
    stop = withdraw(nonce, hospital.plan.digest().hex(), ASH, hospital.officer, reason="x", at=hospital.now)
    hospital.put("stop.json", stop)


def revoked(key):
    return lambda hospital: hospital.put("r.json", revoke(key.public, [key], reason="x", at=hospital.now))


def garbled(hospital):
    hospital.put("r.json", b"half a revoc")


def test_nothing_arrives_and_the_site_takes_part_to_the_end(tmp_path, keys):
    plan = make_plan(keys, rounds=1)
    hospital = Hospital(tmp_path / "ash", keys, plan)
    assert run(tmp_path, keys, plan, hospital) == []
    assert hospital.asked == hospital.answered
    assert "mask" in hospital.answered


@pytest.mark.parametrize(
    ("arrives", "said"),
    [
        (withdrawn, "approval check 10"),
        ("own key", "approval check 9"),
        ("another site's key", "approval check 9"),
        (garbled, "r.json among the revocations does not count"),
    ],
)
def test_what_arrives_stops_the_site_before_its_next_answer(tmp_path, keys, arrives, said):
    plan = make_plan(keys, rounds=1)
    named = {"own key": keys.sites[ASH], "another site's key": keys.sites["site-b"]}
    arrives = revoked(named[arrives]) if isinstance(arrives, str) else arrives
    hospital = Hospital(tmp_path / "ash", keys, plan, arrives)
    lost = run(tmp_path, keys, plan, hospital)
    assert lost
    assert all(said in reason for reason in lost)
    assert hospital.answered == hospital.asked[: hospital.asked.index("mask")]


def test_putting_the_old_approval_back_changes_nothing(tmp_path, keys):
    def swap(hospital):
        withdrawn(hospital)
        hospital.site.approval_path.unlink()
        hospital.site.approval_path.write_bytes(hospital.approval)

    plan = make_plan(keys, rounds=1)
    hospital = Hospital(tmp_path / "ash", keys, plan, swap, before="train")
    assert all("approval check 10" in reason for reason in run(tmp_path, keys, plan, hospital))
    assert hospital.answered == []


def test_a_withdrawal_of_an_earlier_approval_stops_nothing(tmp_path, keys):
    def replay(hospital):
        stop = withdraw("00" * 16, hospital.plan.digest().hex(), ASH, hospital.officer, reason="x", at=hospital.now)
        hospital.put("stop.json", stop)

    plan = make_plan(keys, rounds=1)
    assert run(tmp_path, keys, plan, Hospital(tmp_path / "ash", keys, plan, replay)) == []


def test_the_coordinators_revoked_key_ends_the_run_where_every_site_knows_it(tmp_path, keys):
    """Here at two sites of four: too few are left, and no sum is opened."""
    plan = make_plan(keys, rounds=1)
    hospital = Hospital(tmp_path / "ash", keys, plan, revoked(keys.coordinator))

    class Refuses:
        def handle(self, name, body):
            raise AbortError("knows it too")

    with Federation(tmp_path / "run", keys, plan) as federation:
        hospital.move_in(federation)
        federation.agents[SiteId("site-b")] = Refuses()
        with pytest.raises(AbortError):
            federation.run()
    assert "mask" not in hospital.answered


def test_a_stranger_cannot_stop_a_run_unnoticed(tmp_path, keys):
    """A stranger's notice stops the site, but by name: whoever can write there can take the approval away as well."""

    def strange(hospital):
        key = SigningKey.generate()
        hospital.put("s.json", revoke(keys.coordinator.public, [key], reason="x", at=hospital.now))

    plan = make_plan(keys, rounds=1)
    (reason, *_) = run(tmp_path, keys, plan, Hospital(tmp_path / "ash", keys, plan, strange))
    assert "s.json" in reason
    assert "revocation check 3" in reason


class KilledError(Exception):
    """The process ends here."""


def killed_at_the_second_round(event):
    if event["event"] == "asking" and event["round"] == 1:
        raise KilledError


def withdrawn_from(site):
    officer = SigningKey.load(site.folder / OFFICER_KEY)
    said = read_approval(site.approval_path.read_bytes(), site.name, [officer.public])
    now = datetime.datetime.now(datetime.UTC)
    stop = withdraw(said.nonce, said.plan_sha256, site.name, officer, reason="x", at=now)
    site.revocations_path.mkdir()
    (site.revocations_path / "stop.json").write_bytes(stop)


@pytest.fixture
def half_done(tmp_path):
    """A run of one process that was killed after its first round, and then a site's approval was withdrawn."""

    def make(*assignments):
        sizes = ("training.examples_per_round=2", "evaluation.max_new_tokens=4", "evaluation.single_test_limit=1")
        draft, sites = SMOKE / "plan.toml", SMOKE / "sites"
        folder = prepare_run(draft, sites, tmp_path / "run", init=True, assignments=(*sizes, *assignments))
        with pytest.raises(KilledError):
            open_study(folder, killed_at_the_second_round).run()
        withdrawn_from(load_site(folder.sites / "priory" / "site.toml"))
        return folder

    return make


def test_a_run_of_one_process_is_resumed_without_the_site_whose_approval_was_withdrawn(half_done):
    folder, events = half_done("secure.min_cohort_change=1"), []
    study = open_study(folder, events.append)
    assert "priory" not in study.training
    finish_run(folder, study.run)
    lost = [e["sites"]["priory"] for e in events if e["event"] == "lost" and "priory" in e["sites"]]
    assert lost
    assert all("approval check 10" in reason for reason in lost)
    assert [str(row) for row in verify_run(folder.path) if row.outcome == "failed"] == []
    assert "priory alone" not in folder.results().scores


def test_a_model_of_pooled_notes_is_not_made_without_them(half_done):
    folder = half_done('evaluation.baselines=["central"]')
    with pytest.raises(VerificationError, match="approval check 10"):
        open_study(folder, lambda event: None)


def test_where_too_few_are_left_the_reason_is_said_before_anything_is_loaded(half_done):
    folder, events = half_done(), []
    withdrawn_from(load_site(folder.sites / "westlake" / "site.toml"))
    with pytest.raises(VerificationError, match="site priory: approval check 10"):
        open_study(folder, events.append)
    assert events == []
