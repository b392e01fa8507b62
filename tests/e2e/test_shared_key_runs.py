"""Whole runs with one key for all sites and no masks: the coordinator weighs what it cannot read, and cannot cheat."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedsec.coordinator import encrypted as coordinator
from fedsec.coordinator.state import EncryptedState
from fedsec.encryption.workers import UNOPENED
from fedsec.plan.specs import CanarySpec
from fedsec.site import encrypted
from fedsec.spool import Upload
from fedsec.wire import sum_parameters
from fedsec_secure.errors import AbortError, PeerViolationError, VerificationError
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import sum_frames
from fedsec_secure.masking.coordinator_unmask import ClosedTotal, weighted_total
from fedsec_secure.numeric.lanes import Lanes, unpack
from tests.e2e.encrypting import ROUNDS, SITES, Away, InProcess, Stopped, bound, finals, opened
from tests.e2e.federation import RUN, Keys, Steady, make_plan
from tests.marks import sampled

EXCHANGES = ("train", "encrypt", "verdict")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(encrypted, "EncryptionWorkers", InProcess)


def options_of(rule: str, **options):
    """Sites of unlike scores may weigh unlike: none is cut to its share."""
    return {"rule": rule, **({"weighting": {"cap": 0.5}} if rule == "influence" else {}), **options}


def shared_key_plan(keys, rule="uniform", **options):
    return make_plan(keys, **options_of(rule, **({"mode": "he", "rounds": ROUNDS} | options)))


def unlike(name: str, plan) -> Steady:
    """From site-a, the best, to site-e."""
    work = Steady(name, plan)
    work.level = 6 * (ord(name[-1]) - ord("a"))
    return work


@pytest.mark.parametrize("rule", sampled(("uniform", "size", "influence"), "uniform", "influence"))
def test_the_adapter_is_that_of_masks_within_rounding(tmp_path, keys, rule):
    """With influence the coordinator multiplies by 256 units of weight: what that does to shares is computed here."""
    plan, other = shared_key_plan(keys, rule, rounds=1), make_plan(keys, **options_of(rule, rounds=1, ring="2x32"))
    with opened(tmp_path / "encrypted", keys, plan, work=unlike) as federation:
        state = federation.run()
        assert isinstance(state, EncryptedState)
        held, start = finals(federation), federation.initial()
        (said,) = (e for e in federation.events if e["event"] == "round")
        updates = {name: store.update(RUN, 0) for name, store in federation.stores.items()}
    assert {a.digest() for a in held.values()} == {state.digest()}
    assert set(held) == set(keys.sites)
    with opened(tmp_path / "masked", keys, other) as federation:
        masked = federation.run()
    if rule == "influence":
        units = said["weights"]
        assert sum(units.values()) <= 256
        assert len(set(units.values())) > 1, "equal weights would show little"
        stacked = np.stack([updates[n].values.astype(np.float64) for n in units])
        expected = start.flatten() + np.average(stacked, axis=0, weights=list(units.values()))
        assert np.abs(held["site-a"].flatten() - expected).max() <= bound(plan, masked) + 1e-6
    else:
        far = np.abs(held["site-a"].flatten() - masked.flatten()).max()
        assert 0 < far <= bound(plan, masked) + bound(other, masked) + 1e-6


def test_shares_are_those_of_the_masked_rule_to_half_a_percent(tmp_path, keys):
    def shares(mode: str) -> dict[str, float]:
        plan = make_plan(keys, **options_of("influence", rounds=1, mode=mode))
        with opened(tmp_path / mode, keys, plan, work=unlike) as federation:
            federation.run()
            (said,) = (e for e in federation.events if e["event"] == "round")
        total = sum(said["weights"].values())
        return {name: weight / total for name, weight in said["weights"].items()}

    exact, rounded = shares("mask"), shares("he")
    assert exact.keys() == rounded.keys()
    assert max(abs(exact[n] - rounded[n]) for n in exact) <= 0.005


def test_canaries_are_measured_at_the_sites(tmp_path, keys):
    plan = shared_key_plan(keys, canaries=CanarySpec(per_site=2))
    with opened(tmp_path, keys, plan) as federation:
        state = federation.run()
        measured = {name: work.measured for name, work in federation.works.items()}
    assert measured == {name: [state.digest()] for name in keys.sites}


@pytest.mark.parametrize("exchange", sampled(EXCHANGES, "encrypt", "verdict"))
@pytest.mark.parametrize("lost_reply", [False, True])
@pytest.mark.parametrize("rule", sampled(("size", "influence"), "influence"))
def test_a_site_that_missed_a_sum_catches_up(tmp_path, keys, exchange, lost_reply, rule):
    def wrap(site, agent):
        return Away(agent, exchange, {0}, lost_reply) if site == "site-c" else agent

    with opened(tmp_path, keys, shared_key_plan(keys, rule=rule), wrap=wrap, work=unlike) as federation:
        state = federation.run()
        held = finals(federation)
        rounds = [e["survivors"] for e in federation.events if e["event"] == "round"]
    assert {a.digest() for a in held.values()} == {state.digest()}
    assert len(held) == SITES
    assert ("site-c" in rounds[0]) == (exchange == "verdict")
    assert "site-c" in rounds[1]


def test_a_site_that_missed_two_sums_catches_up(tmp_path, keys):
    def wrap(site, agent):
        return Away(agent, "train", {0, 1}) if site == "site-c" else agent

    with opened(tmp_path, keys, shared_key_plan(keys, rule="influence"), wrap=wrap, work=unlike) as federation:
        state = federation.run()
        held = finals(federation)
    assert held["site-c"].digest() == state.digest()


@pytest.mark.parametrize("exchange", sampled(("key-take", *EXCHANGES, "attest"), "key-take", "verdict"))
def test_a_run_goes_on_after_a_kill_and_ends_in_the_same_bits(tmp_path, keys, exchange):
    plan = shared_key_plan(keys, rule="influence")
    with opened(tmp_path / "calm", keys, plan, work=unlike) as federation:
        expected = federation.run()

    class Stop:
        def __init__(self, transport):
            self.transport, self.seen = transport, 0

        def exchange(self, asked, spool):
            outcome = self.transport.exchange(asked, spool)
            self.seen += asked.name == exchange
            if asked.name == exchange and self.seen == (2 if exchange in EXCHANGES else 1):
                raise Stopped
            return outcome

    with opened(tmp_path / "killed", keys, plan, carry=Stop, work=unlike) as federation, pytest.raises(Stopped):
        federation.run()
    with opened(tmp_path / "killed", keys, plan, work=unlike) as federation:
        assert federation.run().digest() == expected.digest()


def test_the_next_cohort_is_the_same_or_far_from_it(tmp_path, keys):
    """The last attempt leaves sites out rather than open a sum that differs from the one before by one site."""

    def wrap(site, agent):
        return Away(agent, "train", {1, 2, 3}) if site == "site-c" else agent

    with opened(tmp_path, keys, shared_key_plan(keys, change=2), wrap=wrap) as federation:
        federation.run()
        rounds = [set(e["survivors"]) for e in federation.events if e["event"] == "round"]
        kept = [store.runs.survivor_sets() for store in federation.stores.values()]
    assert len(rounds[0]) == SITES
    assert len(rounds[1]) == SITES - 2
    assert "site-c" not in rounds[1]
    assert all(len(sets) >= 1 for sets in kept)


def test_a_site_opens_no_sum_that_differs_by_one_site(tmp_path, keys, monkeypatch):
    """A coordinator that does not leave anybody out."""
    monkeypatch.setattr(coordinator.SharedKeyAttempt, "kept", lambda self, names, floor, exchange: names)

    def wrap(site, agent):
        return Away(agent, "train", {1, 2, 3}) if site == "site-c" else agent

    with opened(tmp_path, keys, shared_key_plan(keys, change=2), wrap=wrap) as federation:
        with pytest.raises(AbortError, match="0 sites attest"):
            federation.run()
        lost = [e["sites"] for e in federation.events if e["event"] == "lost" and e["exchange"] == "verdict"]
        assert all("differs by 1 from a set that this site" in why for sites in lost for why in sites.values())
        assert not any(store.keys.is_destroyed(RUN) for store in federation.stores.values()), "nothing was opened"


# ---- a coordinator that cheats with what it has: ciphertexts and the four operations on them


def alone(uploads, weights, parameters) -> ClosedTotal:
    """One site's upload for all."""
    first = next(iter(weights))
    one = weighted_total(uploads, {first: 1}, parameters)
    frames = replace(one.frames, seeds=np.repeat(one.frames.seeds, len(weights), axis=1))
    return ClosedTotal(frames, one.tag)


def without_one(uploads, weights, parameters) -> ClosedTotal:
    return weighted_total(uploads, {s: 0 if s == "site-b" else w for s, w in weights.items()}, parameters)


def other_weights(uploads, weights, parameters) -> ClosedTotal:
    return weighted_total(uploads, {s: w + (s == "site-b") for s, w in weights.items()}, parameters)


def doubled(uploads, weights, parameters) -> ClosedTotal:
    return weighted_total(uploads, {s: 2 * w for s, w in weights.items()}, parameters)


def shifted(uploads, weights, parameters) -> ClosedTotal:
    """By a number of its own, which needs no key."""
    total = weighted_total(uploads, weights, parameters)
    total.frames.c0[0, 0] = (int(total.frames.c0[0, 0]) + STANDARD.multiple) % STANDARD.modulus
    return total


def other_tag(uploads, weights, parameters) -> ClosedTotal:
    total = weighted_total(uploads, weights, parameters)
    return replace(total, tag=total.tag ^ 1)


@pytest.mark.parametrize("forge", [alone, without_one, other_weights, doubled, shifted, other_tag])
def test_no_site_takes_what_is_not_the_weighted_sum(tmp_path, keys, monkeypatch, forge: Callable[..., ClosedTotal]):
    monkeypatch.setattr(coordinator, "weighted_total", forge)
    rule = "uniform" if forge is doubled else "influence"  # twice those weights is past what decrypts, and no sum
    with opened(tmp_path, keys, shared_key_plan(keys, rule=rule, rounds=1), work=unlike) as federation:
        with pytest.raises(AbortError, match="0 sites attest one adapter"):
            federation.run()
        lost = [e["sites"] for e in federation.events if e["event"] == "lost" and e["exchange"] == "verdict"]
        reasons = {why.split(": ", 1)[1] for sites in lost for why in sites.values()}
        assert reasons == {f"{UNOPENED}: the encryption key of run {RUN} is destroyed here"}
        assert all(store.keys.is_destroyed(RUN) for store in federation.stores.values())


def test_a_copy_of_the_record_that_still_has_the_key_does_not_bring_it_back(tmp_path, keys, monkeypatch):
    """Taken before the forged sum, put back after it: the ledger knows a later state of the record."""
    monkeypatch.setattr(coordinator, "weighted_total", shifted)
    copies: dict[Path, bytes] = {}

    class Copy:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, asked, spool):
            if asked.name == "verdict":
                for name, store in federation.stores.items():
                    with closing(sqlite3.connect(store.folder / "record.sqlite")) as db:
                        db.backup(copied := sqlite3.connect(tmp_path / f"{name}.sqlite"))
                        copied.close()
                    copies[store.folder / "record.sqlite"] = (tmp_path / f"{name}.sqlite").read_bytes()
            return self.transport.exchange(asked, spool)

    plan = shared_key_plan(keys)
    with (
        opened(tmp_path / "run", keys, plan, carry=Copy) as federation,
        pytest.raises(AbortError, match="0 sites attest"),
    ):
        federation.run()
    assert copies
    for record, content in copies.items():
        for file in record.parent.glob("record.sqlite*"):
            file.unlink()
        record.write_bytes(content)
    with pytest.raises(VerificationError, match="rolled back"), opened(tmp_path / "run", keys, plan):
        pass


def test_another_rounds_sum_is_refused(tmp_path, keys, monkeypatch):
    kept: list[ClosedTotal] = []

    def again(uploads, weights, parameters):
        kept.append(weighted_total(uploads, weights, parameters))
        return kept[0]

    monkeypatch.setattr(coordinator, "weighted_total", again)
    with opened(tmp_path, keys, shared_key_plan(keys)) as federation:
        with pytest.raises(AbortError, match="0 sites attest one adapter"):
            federation.run()
        assert [e["round"] for e in federation.events if e["event"] == "round"] == [0]


def test_with_one_sites_key_a_coordinator_opens_every_upload(tmp_path, keys):
    """What the mode warns of, and why it is not the default."""
    plan = shared_key_plan(keys, rounds=1)
    spooled: dict[str, bytes] = {}
    key = []

    class Listen:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, asked, spool):
            outcome = self.transport.exchange(asked, spool)
            if asked.name == "encrypt":
                spooled.update({s: Path(p).read_bytes() for s, p in outcome.uploads().items()})
                key.append(federation.stores["site-b"].keys.key(RUN))
            return outcome

    with opened(tmp_path, keys, plan, carry=Listen) as federation:
        federation.run()
        parameters = sum_parameters(plan, federation.initial().size)
        victim = federation.stores["site-a"].update(RUN, 0).values
    path = tmp_path / "upload"
    path.write_bytes(spooled["site-a"])
    cipher, source = BfvCipher(key[0]), Upload(path).words()
    words = cipher.decrypt(sum_frames([source], STANDARD, parameters.words))[: parameters.words]
    lanes = np.concatenate(unpack(Lanes.named("2x23"), words))[: parameters.length]
    found = lanes * parameters.fixed.step
    assert np.abs(found - np.clip(victim, -0.5, 0.5)).max() <= parameters.fixed.step
    cipher.close()
    source.close()


@pytest.mark.parametrize("exchange", ["share", "mask", "confirm", "unmask", "plain"])
def test_no_exchange_of_another_mode_is_answered(tmp_path, keys, exchange):
    with (
        opened(tmp_path, keys, shared_key_plan(keys)) as federation,
        pytest.raises(
            PeerViolationError, match="expected one of key-offer, key-deal, key-take, train, encrypt, verdict"
        ),
    ):
        federation.agents["site-a"].handle(exchange, b"")
