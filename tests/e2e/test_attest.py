"""What a site signs about its part in a run is what it did, once, and nothing leaves it afterwards."""

from __future__ import annotations

import pytest

from fedsec.coordinator.rounds import one_round
from fedsec.logfile import read_entries
from fedsec.plan.attestation import open_attestation
from fedsec.plan.specs import EvaluationSpec
from fedsec.wire import attest_context, baseline_context, core_roster
from fedsec_secure.codec import head_length, seal, sha256
from fedsec_secure.errors import AbortError, PeerViolationError, TransportError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.record.entries import AggregateEntry, AttestationEntry
from tests.e2e.federation import RUN, Federation, Keys, make_plan

SITES = 4


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


def request(federation: Federation, name: str = "attest", run: str = RUN, signer: SigningKey | None = None) -> bytes:
    plan, key = federation.plan, signer or federation.keys.coordinator
    context = {"attest": attest_context, "baseline": baseline_context}[name]
    bound = context(plan.digest(), run, core_roster(plan).digest())
    return seal(f"{name}-request", COORDINATOR, bound, b"", key.sign)


def said(federation: Federation, site: str, data: bytes):
    return open_attestation(data, site, federation.keys.sites[site].public, federation.plan, RUN)


def test_every_site_attests_what_it_did(tmp_path, keys):
    plan = make_plan(keys, change=2)
    with Federation(tmp_path, keys, plan, change=3) as federation:
        federation.run()
        assert set(federation.attestations) == set(keys.sites)
        entries = read_entries(tmp_path / "run" / "log")
        sums = {e.round: e.adapter_after_sha256 for e in entries if isinstance(e, AggregateEntry)}
        logged = {e.site: e.attestation_sha256 for e in entries if isinstance(e, AttestationEntry)}
        for site, data in federation.attestations.items():
            attested = said(federation, site, data)
            assert {r.round: r.adapter_sha256 for r in attested.rounds} == sums
            assert all(r.took_part for r in attested.rounds)
            assert (attested.floors.minimum_cohort, attested.floors.min_cohort_change) == (3, 3)
            assert attested.privacy.epsilon_before == 0
            assert attested.privacy.epsilon_after == "infinity"
            assert attested.privacy.releases == 2
            assert federation.ledgers[site].passed(bytes.fromhex(attested.privacy.ledger_head_sha256))
            assert logged[site] == sha256(data).hex()


def test_a_site_that_was_away_attests_only_what_it_saw(tmp_path, keys):
    class Away:
        def __init__(self, agent) -> None:
            self.agent, self.trained = agent, 0

        def handle(self, name, body):
            self.trained += name == "train"
            if self.trained == 2 and name not in ("witness", "attest"):
                raise TransportError("connection refused")
            return self.agent.handle(name, body)

    wrap = lambda site, agent: Away(agent) if site == "site-b" else agent  # noqa: E731
    with Federation(tmp_path, keys, make_plan(keys), wrap=wrap) as federation:
        federation.run()
        assert [r.round for r in said(federation, "site-b", federation.attestations["site-b"]).rounds] == [0]
        assert [r.round for r in said(federation, "site-a", federation.attestations["site-a"]).rounds] == [0, 1]


def drive(runner, steps):
    """A round without its end in the journal."""
    exchange = next(steps)
    while True:
        try:
            exchange = steps.send(runner.transport.exchange(exchange, runner.journal.spool))
        except StopIteration as done:
            return done.value


def test_a_site_signs_once_and_then_releases_nothing(tmp_path, keys):
    """A coordinator that asks early has an attestation of what was, and no update after it."""
    plan = make_plan(keys, evaluation=EvaluationSpec(baselines=("single",)))
    with Federation(tmp_path, keys, plan) as federation:
        runner = federation.runner()
        first = drive(runner, one_round(runner.driver, 0, federation.initial(), {}))
        early = {site: agent.handle("attest", request(federation)) for site, agent in federation.agents.items()}
        assert early == {site: agent.handle("attest", request(federation)) for site, agent in federation.agents.items()}
        with pytest.raises(AbortError):
            drive(runner, one_round(runner.driver, 1, first.adapter, first.verdicts))
        why = next(e["sites"] for e in federation.events if e["event"] == "lost")
        assert all("it releases nothing more of it" in w for w in why.values())
        assert all(work.trained == [0] for work in federation.works.values())
        with pytest.raises(PeerViolationError, match="releases nothing more"):
            federation.agents["site-a"].handle("baseline", request(federation, "baseline"))
        assert federation.agents["site-a"].handle("attest", request(federation)) == early["site-a"]


def test_an_update_that_waits_to_be_sent_is_not_sent_after_the_attestation(tmp_path, keys):
    class Asks:
        """Asks for the attestation just before the masked upload."""

        def __init__(self, agent) -> None:
            self.agent = agent

        def handle(self, name, body):
            if name == "mask":
                self.agent.handle("attest", request(federation))
            return self.agent.handle(name, body)

    federation = Federation(tmp_path, keys, make_plan(keys, rounds=1), wrap=lambda site, agent: Asks(agent))
    with federation, pytest.raises(AbortError):
        federation.run()
    lost = [e for e in federation.events if e["event"] == "lost" and e["exchange"] == "mask"]
    assert all("releases nothing more" in why for e in lost for why in e["sites"].values())
    assert lost


class Killed(BaseException):
    """Where a process would have died."""


def test_a_baseline_that_waits_to_be_sent_is_not_sent_after_the_attestation(tmp_path, keys, monkeypatch):
    """The site died after it kept the scores, and before its ledger had them as spent."""
    plan = make_plan(keys, evaluation=EvaluationSpec(baselines=("single",)))
    with Federation(tmp_path, keys, plan) as federation:
        federation.runner().rounds(federation.initial())
        agent = federation.agents["site-a"]

        def die(*_):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(agent._id.charges, "spend", die)
            with pytest.raises(Killed):
                agent.handle("baseline", request(federation, "baseline"))
        reply = agent.handle("attest", request(federation))
        attested = said(federation, "site-a", bytes(reply[head_length(reply) :]))
        assert attested.privacy.releases == 3, "it was charged before it was computed"
        with pytest.raises(PeerViolationError, match="releases nothing more"):
            agent.handle("baseline", request(federation, "baseline"))
        assert [r.charge.purpose for r in federation.ledgers["site-a"].history() if r.released is None] == ["baseline"]


def test_only_the_coordinator_of_this_plan_and_run_is_answered(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys, rounds=1)) as federation:
        agent = federation.agents["site-a"]
        with pytest.raises(PeerViolationError, match="no run of this plan"):
            agent.handle("attest", request(federation))
        federation.run()
        with pytest.raises(PeerViolationError, match="no run of this plan"):
            agent.handle("attest", request(federation, run="another"))
        with pytest.raises(VerificationError):
            agent.handle("attest", request(federation, signer=SigningKey.generate()))


@pytest.mark.parametrize("lie", ["silent", "forged"])
def test_a_run_ends_only_with_enough_attestations(tmp_path, keys, lie):
    class Liar:
        def __init__(self, site, agent) -> None:
            self.site, self.agent = site, agent

        def handle(self, name, body):
            reply = self.agent.handle(name, body)
            if name != "attest":
                return reply
            if lie == "silent":
                raise TransportError("connection refused")
            content = bytearray(reply[head_length(reply) :])
            content[40] ^= 1
            context = attest_context(federation.plan.digest(), RUN, core_roster(federation.plan).digest())
            return seal("attest", self.site, context, bytes(content), keys.sites[self.site].sign)

    lying: set[str] = {"site-a"}
    wrap = lambda site, agent: Liar(site, agent) if site in lying else agent  # noqa: E731
    federation = Federation(tmp_path, keys, make_plan(keys, rounds=1), wrap=wrap)
    with federation:
        federation.run()
        assert set(federation.attestations) == set(keys.sites) - lying
    lying |= {"site-b"}
    federation = Federation(tmp_path / "two", keys, make_plan(keys, rounds=1), wrap=wrap)
    with federation, pytest.raises(AbortError, match="the set of attestations"):
        federation.run()


def test_the_coordinator_counts_nobody_twice(tmp_path, keys):
    """One site's good attestation sent by another is refused."""

    class Copies:
        def __init__(self, site, agent) -> None:
            self.site, self.agent = site, agent

        def handle(self, name, body):
            if name == "attest":
                other = federation.agents["site-a"].handle(name, body)
                context = attest_context(federation.plan.digest(), RUN, core_roster(federation.plan).digest())
                return seal("attest", self.site, context, other[head_length(other) :], keys.sites[self.site].sign)
            return self.agent.handle(name, body)

    wrap = lambda site, agent: Copies(site, agent) if site == "site-b" else agent  # noqa: E731
    federation = Federation(tmp_path, keys, make_plan(keys, rounds=1), wrap=wrap)
    with federation:
        federation.run()
        assert "site-b" not in federation.attestations
        refused = [e for e in federation.events if e["event"] == "refused" and e["exchange"] == "attest"]
        assert "attestation check 1" in refused[0]["sites"]["site-b"]


def test_the_list_of_excluded_patients_is_fixed_in_attestation_and_log(tmp_path, keys):
    federation = Federation(tmp_path, keys, make_plan(keys, rounds=1), excluded={"site-b": "ab" * 32})
    with federation:
        federation.run()
        entries = [e for e in read_entries(tmp_path / "run" / "log") if isinstance(e, AttestationEntry)]
        logged = {e.site: e.exclusions_hmac_sha256 for e in entries}
        assert logged == {site: "ab" * 32 if site == "site-b" else None for site in keys.sites}
        attested = said(federation, "site-b", federation.attestations["site-b"])
        assert attested.exclusions_hmac_sha256 == "ab" * 32
