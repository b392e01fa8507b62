"""Whole runs whose masked sums are encrypted: the adapter is that of masks alone, and only the sites have it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedsec.coordinator.state import EncryptedState
from fedsec.encryption.workers import UNOPENED, EncryptionWorkers
from fedsec.plan.specs import CanarySpec, ServerSpec
from fedsec.site import encrypted
from fedsec.site.end import claimed_context
from fedsec.wire import EncryptedStart, TrainRequest, core_roster, sum_parameters
from fedsec_secure.codec import Writer, head_length, seal, seal_parts
from fedsec_secure.errors import AbortError, PeerViolationError
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.ceremony import SiteOffered, ceremony_context
from fedsec_secure.masking.messages import decode_packets, encode_packets
from tests.e2e.encrypting import ROUNDS, SITES, Away, InProcess, Stopped, bound, encrypted_plan, finals, opened
from tests.e2e.federation import RUN, Keys, Steady, make_plan
from tests.marks import sampled


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


@pytest.fixture
def real_workers() -> None:
    """For tests that start processes."""


@pytest.fixture(autouse=True)
def no_processes(request, monkeypatch):
    if "real_workers" not in request.fixturenames:
        monkeypatch.setattr(encrypted, "EncryptionWorkers", InProcess)


@pytest.mark.parametrize("rule", sampled(("uniform", "size"), "size"))
def test_the_adapter_is_that_of_masks_alone_within_rounding(tmp_path, keys, rule):
    """Lanes of 23 bits here, of 32 there: as far apart as both error bounds say, and no farther."""
    plan, other = encrypted_plan(keys, rule=rule), make_plan(keys, rounds=ROUNDS, ring="2x32", rule=rule)
    with opened(tmp_path / "encrypted", keys, plan) as federation:
        state = federation.run()
        assert isinstance(state, EncryptedState)
        held = finals(federation)
    assert set(held) == set(keys.sites)
    assert {a.digest() for a in held.values()} == {state.digest()}
    with opened(tmp_path / "masked", keys, other) as federation:
        masked = federation.run()
    far = np.abs(held["site-a"].flatten() - masked.flatten()).max()
    assert 0 < far <= bound(plan, masked) + bound(other, masked) + 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "influence"},
        {"strategy": "ffa", "server": ServerSpec(optimiser="adam", learning_rate=0.01)},
        pytest.param({"strategy": "fedsa"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "fedsvd"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "fed-sb"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "rolora"}, marks=pytest.mark.slow),
    ],
)
def test_with_other_rules_strategies_and_optimisers(tmp_path, keys, options):
    """Post-processing runs at the sites, which come to one digest; what it comes to is what masks alone come to."""
    with opened(tmp_path / "encrypted", keys, encrypted_plan(keys, **options)) as federation:
        state = federation.run()
        held = finals(federation)
    assert {a.digest() for a in held.values()} == {state.digest()}
    assert len(held) == SITES
    with opened(tmp_path / "masked", keys, make_plan(keys, rounds=ROUNDS, ring="2x32", **options)) as federation:
        masked = federation.run()
    np.testing.assert_allclose(held["site-a"].flatten(), masked.flatten(), atol=5e-5)


@pytest.mark.parametrize(
    "exchange", sampled(("train", "share", "mask", "confirm", "unmask", "verdict"), "mask", "verdict")
)
@pytest.mark.parametrize("lost_reply", [False, True])
def test_a_site_that_missed_a_sum_catches_up(tmp_path, keys, exchange, lost_reply):
    """From the encrypted sum that it is sent then, and believes because enough others attest what it leads to."""

    def wrap(site, agent):
        return Away(agent, exchange, {0}, lost_reply) if site == "site-c" else agent

    with opened(tmp_path, keys, encrypted_plan(keys), wrap=wrap) as federation:
        state = federation.run()
        held = finals(federation)
        rounds = [e["survivors"] for e in federation.events if e["event"] == "round"]
    assert {a.digest() for a in held.values()} == {state.digest()}
    assert len(held) == SITES
    assert ("site-c" in rounds[0]) == (exchange in ("confirm", "unmask", "verdict"))
    assert "site-c" in rounds[1]
    assert "site-c" in rounds[2]


@pytest.mark.parametrize("rule", sampled(("uniform", "size", "influence"), "influence"))
def test_a_site_that_missed_two_sums_catches_up(tmp_path, keys, rule):
    def wrap(site, agent):
        return Away(agent, "train", {0, 1}) if site == "site-c" else agent

    with opened(tmp_path, keys, encrypted_plan(keys, rule=rule), wrap=wrap) as federation:
        state = federation.run()
        held = finals(federation)
        rounds = [e["survivors"] for e in federation.events if e["event"] == "round"]
    assert [("site-c" in names) for names in rounds] == [False, False, True]
    assert held["site-c"].digest() == state.digest()


@pytest.mark.parametrize(
    "exchange",
    sampled(
        ("key-offer", "key-deal", "key-take", "train", "mask", "unmask", "verdict", "attest"), "key-deal", "verdict"
    ),
)
def test_a_run_goes_on_after_a_kill_and_ends_in_the_same_bits(tmp_path, keys, exchange):
    plan = encrypted_plan(keys)
    with opened(tmp_path / "calm", keys, plan) as federation:
        expected = federation.run()

    class Stop:
        def __init__(self, transport):
            self.transport, self.seen = transport, 0

        def exchange(self, asked, spool):
            outcome = self.transport.exchange(asked, spool)
            self.seen += asked.name == exchange
            if asked.name == exchange and self.seen == (2 if exchange in ("train", "mask", "unmask", "verdict") else 1):
                raise Stopped
            return outcome

    with opened(tmp_path / "killed", keys, plan, carry=Stop) as federation, pytest.raises(Stopped):
        federation.run()
    with opened(tmp_path / "killed", keys, plan) as federation:
        assert federation.run().digest() == expected.digest()


def test_a_coordinator_that_is_killed_while_a_site_lacks_a_sum_still_has_it(tmp_path, keys):
    plan = encrypted_plan(keys)

    def wrap(site, agent):
        return Away(agent, "verdict", {0}) if site == "site-c" else agent

    class Stop:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, asked, spool):
            if asked.name == "train" and asked.round == 1:
                raise Stopped
            return self.transport.exchange(asked, spool)

    with opened(tmp_path, keys, plan, wrap=wrap, carry=Stop) as federation, pytest.raises(Stopped):
        federation.run()
    with opened(tmp_path, keys, plan) as federation:
        state = federation.run()
        assert finals(federation)["site-c"].digest() == state.digest()


# ---- what a coordinator has, and what it may try


def bytes_of(folder) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def test_nothing_of_the_coordinator_has_the_key_a_sum_or_an_adapter(tmp_path, keys):
    plan = encrypted_plan(keys)
    seen: list[bytes] = []
    key: list[bytes] = []

    class Listen:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, asked, spool):
            seen.extend(asked.requests.values())
            outcome = self.transport.exchange(asked, spool)
            seen.extend(r if isinstance(r, bytes) else r.read_bytes() for r in outcome.replies.values())
            if asked.name == "key-take":
                key.append(federation.stores["site-b"].keys.key(RUN).reveal())
            return outcome

    with opened(tmp_path, keys, plan, carry=Listen) as federation:
        federation.run()
        adapter = finals(federation)["site-a"]
        start = federation.initial()
    (secret,) = key
    everything = b"".join(seen) + bytes_of(tmp_path / "run")
    assert len(everything) > 1 << 20
    assert secret not in everything
    assert secret.hex().encode() not in everything
    name = next(n for n in adapter if not np.array_equal(adapter[n], start[n]))
    assert start[name].tobytes() in everything or not start[name].any(), "round 0's adapter is public"
    for run in range(0, adapter[name].size - 4):
        assert adapter[name].reshape(-1)[run : run + 4].tobytes() not in everything


@pytest.mark.usefixtures("real_workers")
def test_with_workers_of_its_own_each_site_comes_to_the_same_bits(tmp_path, keys):
    plan = encrypted_plan(keys, rounds=1)
    with opened(tmp_path / "here", keys, plan) as federation:
        assert encrypted.EncryptionWorkers is EncryptionWorkers
        state = federation.run()
    with opened(tmp_path / "masked", keys, make_plan(keys, rounds=1, ring="2x32")) as federation:
        masked = federation.run()
        assert np.abs(masked.flatten() - federation.initial().flatten()).max() > 0.01
    assert state.digest() != masked.digest(), "lanes are narrower"


def test_the_key_is_destroyed_when_the_run_is_attested(tmp_path, keys):
    with opened(tmp_path, keys, encrypted_plan(keys)) as federation:
        federation.run()
        for name, store in federation.stores.items():
            assert store.keys.is_destroyed(RUN)
            with pytest.raises(PeerViolationError, match="destroyed its encryption key"):
                store.keys.key(RUN)
            assert store.keys.offer(RUN) is not None, name


@pytest.mark.parametrize("forgery", ["a coefficient", "a seed", "no residue", "cut short"])
def test_a_forged_sum_ends_the_run_once_and_for_all(tmp_path, keys, forgery):
    """Whatever was wrong, every site says the same, and opens nothing more of this run, the right sum neither."""
    plan = encrypted_plan(keys)
    right: dict[str, bytes] = {}

    def forged(federation, body: bytes) -> bytes:
        head = head_length(body)
        content = bytearray(body[head:])
        if forgery == "cut short":
            content = content[:-8]
        else:
            at = len(content) - (2 if forgery != "a seed" else STANDARD.c0_bytes * blocks(plan) + 1)  # above the noise
            content[at] ^= 1
            if forgery == "no residue":
                content[-8:] = bytes([255] * 8)
        context = claimed_context(body)
        return seal_parts("verdict-request", COORDINATOR, context, [bytes(content)], keys.coordinator.sign)

    class Forge:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, asked, spool):
            if asked.name == "verdict":
                right.update(asked.requests)
                asked = replace(asked, requests={s: forged(federation, b) for s, b in asked.requests.items()})
            return self.transport.exchange(asked, spool)

    with opened(tmp_path, keys, plan, carry=Forge) as federation:
        with pytest.raises(AbortError, match="0 sites attest one adapter"):
            federation.run()
        reasons = {e["sites"][s] for e in federation.events if e["event"] == "lost" for s in e["sites"]}
        assert {r.split(": ", 1)[1] for r in reasons} == {
            f"{UNOPENED}: the encryption key of run {RUN} is destroyed here"
        }
        for name, agent in federation.agents.items():
            assert federation.stores[name].keys.is_destroyed(RUN)
            with pytest.raises(PeerViolationError, match="destroyed its encryption key"):
                agent.handle("verdict", right[name])


def blocks(plan) -> int:
    adapter = Steady("site-a", plan).initial_adapter()
    return STANDARD.blocks(sum_parameters(plan, adapter.size).words)


def test_a_missed_sum_that_leads_elsewhere_destroys_the_key_of_who_missed_it(tmp_path, keys):
    plan = encrypted_plan(keys)

    def wrap(site, agent):
        return Away(agent, "train", {0}) if site == "site-c" else agent

    class Swap:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, asked, spool):
            if asked.name == "train" and asked.round == 1:
                body = asked.requests["site-c"]
                content = bytearray(body[head_length(body) :])
                at = bytes(content).index(b"verdict")  # the packets that attest the digest come after the sums
                for i in range(at - 2000, at - 1992):  # whatever the alignment, high bits too
                    content[i] ^= 1
                packet = seal_parts(
                    "train-request", COORDINATOR, claimed_context(body), [bytes(content)], keys.coordinator.sign
                )
                asked = replace(asked, requests={**asked.requests, "site-c": packet})
            return self.transport.exchange(asked, spool)

    with opened(tmp_path, keys, plan, wrap=wrap, carry=Swap) as federation:
        state = federation.run()
        held = finals(federation)
        assert federation.stores["site-c"].keys.is_destroyed(RUN)
        lost = [e["sites"]["site-c"] for e in federation.events if e["event"] == "lost" and "site-c" in e["sites"]]
    assert any(UNOPENED in reason for reason in lost)
    assert set(held) == set(keys.sites) - {"site-c"}
    assert {a.digest() for a in held.values()} == {state.digest()}


def test_a_missed_sum_that_opens_and_is_another_destroys_the_key_of_who_missed_it(tmp_path, keys):
    """Shifted by one step, for which nobody needs a key: it decodes, and leads to an adapter that nobody attests."""
    plan = encrypted_plan(keys)

    def wrap(site, agent):
        return Away(agent, "train", {0}) if site == "site-c" else agent

    def shifted(body: bytes) -> bytes:
        request = TrainRequest.decode(body[head_length(body) :])
        start = EncryptedStart.decode(request.adapter)
        ((number, missed),) = start.missed.items()
        frames = bytearray(missed.frames)
        at = len(frames) - STANDARD.c0_bytes * blocks(plan)
        moved = (int.from_bytes(frames[at : at + 8], "little") + STANDARD.multiple) % STANDARD.modulus
        frames[at : at + 8] = moved.to_bytes(8, "little")
        start = replace(start, missed={number: replace(missed, frames=bytes(frames))})
        content = replace(request, adapter=start.encode()).encode()
        return seal("train-request", COORDINATOR, claimed_context(body), content, keys.coordinator.sign)

    class Shift:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, asked, spool):
            if asked.name == "train" and asked.round == 1:
                requests = {**asked.requests, "site-c": shifted(asked.requests["site-c"])}
                asked = replace(asked, requests=requests)
            return self.transport.exchange(asked, spool)

    with opened(tmp_path, keys, plan, wrap=wrap, carry=Shift) as federation:
        state = federation.run()
        held = finals(federation)
        assert federation.stores["site-c"].keys.is_destroyed(RUN)
        lost = [e["sites"]["site-c"] for e in federation.events if e["event"] == "lost" and "site-c" in e["sites"]]
    assert any(UNOPENED in reason for reason in lost)
    assert {a.digest() for a in held.values()} == {state.digest()}
    assert "site-c" not in held


@pytest.mark.parametrize("exchange", ["key-offer", "key-deal", "key-take"])
def test_without_every_site_there_is_no_key(tmp_path, keys, exchange):
    def wrap(site, agent):
        return Away(agent, exchange, {-1}) if site == "site-a" else agent

    with (
        opened(tmp_path, keys, encrypted_plan(keys), wrap=wrap) as federation,
        pytest.raises(
            AbortError, match=f"encryption key is shared by all sites, and site-a did not answer `{exchange}`"
        ),
    ):
        federation.run()
    with opened(tmp_path, keys, encrypted_plan(keys)) as federation:
        federation.run()


def test_canaries_are_measured_at_the_sites(tmp_path, keys):
    plan = encrypted_plan(keys, canaries=CanarySpec(per_site=2))
    with opened(tmp_path, keys, plan) as federation:
        state = federation.run()
        measured = {name: work.measured for name, work in federation.works.items()}
    assert measured == {name: [state.digest()] for name in keys.sites}


def test_an_offer_is_made_for_the_run_that_the_request_is_signed_for(tmp_path, keys):
    """Signed for one run, it asks for another's key."""
    plan = encrypted_plan(keys)
    context = ceremony_context(plan.digest(), "run-2", core_roster(plan).digest())
    body = Writer().text(RUN).done()
    request = seal("key-offer-request", COORDINATOR, context, body, keys.coordinator.sign)
    with (
        opened(tmp_path, keys, plan) as federation,
        pytest.raises(PeerViolationError, match="signed for another plan, run or roster"),
    ):
        federation.agents["site-b"].handle("key-offer", request)


def test_a_dealer_deals_to_one_set_of_offers(tmp_path, keys):
    """The same once more gets the same packet; with one offer exchanged for another that its site signed, nothing."""
    plan = encrypted_plan(keys)
    asked: list[bytes] = []
    dealt: list[bytes] = []

    class Stop:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, exchange, spool):
            outcome = self.transport.exchange(exchange, spool)
            if exchange.name == "key-deal":
                asked.extend(exchange.requests.values())
                dealt.extend(outcome.replies.values())
                raise Stopped
            return outcome

    with opened(tmp_path, keys, plan, carry=Stop) as federation:
        with pytest.raises(Stopped):
            federation.run()
        dealer = federation.agents["site-a"]
        assert dealer.handle("key-deal", asked[0]) == dealt[0]
        context = ceremony_context(plan.digest(), RUN, core_roster(plan).digest())
        offers = dict(decode_packets(asked[0][head_length(asked[0]) :], "offers"))
        offers["site-b"] = SiteOffered.begin("site-b", context, keys.sites["site-b"].sign).packet
        other = seal("key-deal-request", COORDINATOR, context, encode_packets(offers), keys.coordinator.sign)
        with pytest.raises(PeerViolationError, match="was dealt to another set of offers"):
            dealer.handle("key-deal", other)
