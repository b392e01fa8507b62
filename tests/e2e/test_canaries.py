"""Canaries in a run: measured on the verified adapter, signed by every site, and a bound that nobody gets past."""

import math

import pytest

from fedsec.coordinator.attempt import MAX_ATTEMPTS
from fedsec.logfile import read_entries
from fedsec.plan.attestation import open_attestation
from fedsec.plan.specs import CanarySpec
from fedsec.training.adapter import AdapterState
from fedsec.wire import FinalAdapter, attest_context, core_roster
from fedsec_secure.codec import seal
from fedsec_secure.errors import AbortError, PeerViolationError, ReleaseBlockedError, TransportError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.record.entries import AttestationEntry, ModelEntry, RefusalEntry, SurvivorsEntry
from tests.e2e.federation import RUN, ArithmeticWork, Federation, Keys, make_plan, tiny_work

PLANTED = CanarySpec(per_site=8, candidates=31)


@pytest.fixture(scope="module")
def keys():
    return Keys.generate(5)


def exposed(bits_of):
    def work(name, plan):
        return ArithmeticWork(name, plan, bits=bits_of.get(name, 1.0))

    return work


def entries(folder, kind):
    return [entry for entry in read_entries(folder / "run" / "log") if isinstance(entry, kind)]


def test_every_site_signs_how_exposed_its_own_canaries_are(tmp_path, keys):
    plan = make_plan(keys, canaries=PLANTED)
    with Federation(tmp_path, keys, plan, work=exposed({"site-b": 4.5}), max_exposure=5.0) as federation:
        adapter = federation.run()
        for name, work in federation.works.items():
            assert work.measured == [adapter.digest()]
            said = open_attestation(federation.attestations[name], name, keys.sites[name].public, plan, RUN)
            assert said.canaries.bits == (work.bits,) * 8
            assert said.floors.max_exposure == 5.0
        answers = [c.answer for work in federation.works.values() for c in work.canaries]
        assert len(set(answers)) == 40  # every site has its own
    assert len(entries(tmp_path, ModelEntry)) == 1


def test_an_adapter_above_one_sites_bound_is_not_released_and_no_resume_changes_it(tmp_path, keys):
    plan = make_plan(keys, canaries=PLANTED)
    for _ in range(2):
        federation = Federation(tmp_path, keys, plan, work=exposed({"site-b": 4.5}), max_exposure=4.0)
        told = pytest.raises(ReleaseBlockedError, match=r"^site-b withholds .* 4\.50 bits .* allows 4$")
        with federation, told:
            federation.run()
        assert not entries(tmp_path, ModelEntry)
        assert len(entries(tmp_path, AttestationEntry)) == 5
        (refusal,) = entries(tmp_path, RefusalEntry)
        assert (refusal.site, refusal.exchange) == ("site-b", "attest")


class Away:
    """A site that does not answer ``attest`` while it is away."""

    def __init__(self, agent, away):
        self.agent, self.away = agent, away

    def handle(self, name, body):
        if name == "attest" and self.away:
            self.away.pop()
            raise TransportError("no answer")
        return self.agent.handle(name, body)


def test_a_site_of_the_last_sum_is_asked_again_and_cannot_be_left_out(tmp_path, keys):
    """A coordinator that would rather not hear one site's measurement gets no certificate without it."""
    plan, away = make_plan(keys, canaries=PLANTED), [True] * (MAX_ATTEMPTS + 1)

    def wrap(site, agent):
        return Away(agent, away) if site == "site-b" else agent

    with Federation(tmp_path, keys, plan, wrap=wrap) as federation, pytest.raises(AbortError, match=r"^site-b did not"):
        federation.run()
    assert len(away) == 1
    assert not entries(tmp_path, ModelEntry)
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:  # a resume asks again: once in vain, and then not
        federation.run()
    assert not away
    assert len(entries(tmp_path, ModelEntry)) == 1
    assert len(entries(tmp_path, AttestationEntry)) == 5


class Dropped:
    """A site that does nothing after the first round but cosign the log."""

    def __init__(self, agent):
        self.agent, self.over = agent, False

    def handle(self, name, body):
        if self.over and name != "witness":
            raise TransportError("no answer")
        self.over = name == "verdict" or self.over
        return self.agent.handle(name, body)


def test_a_site_that_is_in_earlier_sums_alone_is_not_waited_for(tmp_path, keys):
    """What the bound does not hold against, and the documentation says so: its updates are in the adapter."""
    plan = make_plan(keys, canaries=PLANTED)
    federation = Federation(
        tmp_path,
        keys,
        plan,
        work=exposed({"site-b": 4.5}),
        max_exposure=4.0,
        wrap=lambda site, agent: Dropped(agent) if site == "site-b" else agent,
    )
    with federation:
        federation.run()
    first, last = entries(tmp_path, SurvivorsEntry)
    assert ("site-b" in first.sites, "site-b" in last.sites) == (True, False)
    assert len(entries(tmp_path, ModelEntry)) == 1
    assert "site-b" not in {entry.site for entry in entries(tmp_path, AttestationEntry)}


def ask(federation, keys, plan, content):
    context = attest_context(plan.digest(), RUN, core_roster(plan).digest())
    request = seal("attest-request", COORDINATOR, context, content, keys.coordinator.sign)
    return federation.agents[SiteId("site-a")].handle("attest", request)


def test_only_the_adapter_that_the_site_verified_is_measured(tmp_path, keys):
    plan = make_plan(keys, canaries=PLANTED)
    with Federation(tmp_path, keys, plan) as federation:
        adapter = federation.runner().rounds(federation.initial())
        harmless = AdapterState({name: 0 * adapter[name] for name in adapter})
        with pytest.raises(PeerViolationError, match="that this site verified"):
            ask(federation, keys, plan, FinalAdapter(harmless.to_bytes(), {}).encode())
        assert not federation.works["site-a"].measured
        ask(federation, keys, plan, FinalAdapter(adapter.to_bytes(), {}).encode())
        assert federation.works["site-a"].measured == [adapter.digest()]


def test_no_adapter_is_taken_where_nothing_is_planted(tmp_path, keys):
    plan = make_plan(keys)
    with Federation(tmp_path, keys, plan) as federation:
        adapter = federation.runner().rounds(federation.initial())
        with pytest.raises(PeerViolationError, match="plants no canaries"):
            ask(federation, keys, plan, FinalAdapter(adapter.to_bytes(), {}).encode())


def test_what_is_planted_is_trained_on_measured_and_the_same_after_a_restart(tmp_path, keys):
    plan = make_plan(keys, canaries=CanarySpec(per_site=2, repeats=3, candidates=31))
    for _ in range(2):
        with Federation(tmp_path, keys, plan, work=tiny_work) as federation:
            work = federation.works["site-a"]
            assert len(work._trained_on) == len(work.examples) + 6
            assert work.weight() == 1
            planted = work._planted
            assert len({example.answer for example in planted}) == 2
        if (tmp_path / "answers").exists():
            assert (tmp_path / "answers").read_text() == str([e.answer for e in planted])
        (tmp_path / "answers").write_text(str([e.answer for e in planted]))
    with Federation(tmp_path, keys, plan, work=tiny_work) as federation:
        federation.run()
        said = open_attestation(federation.attestations["site-a"], "site-a", keys.sites["site-a"].public, plan, RUN)
        assert len(said.canaries.bits) == 2
        assert all(0 <= bits <= math.log2(32) for bits in said.canaries.bits)


def test_canaries_are_the_sites_own_secret(tmp_path, keys):
    """Nothing of them is in what a site's agent, its work or its record shows."""
    plan = make_plan(keys, canaries=PLANTED)
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
        canaries = federation.works["site-a"].canaries
        assert all(c.answer not in repr(c) and c.candidates[0] not in repr(c) for c in canaries)
        for path in tmp_path.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(c.prompt.encode() in data for c in canaries), path
