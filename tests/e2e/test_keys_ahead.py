"""Keys of several rounds shared ahead: a round costs three exchanges, and its secrets open no other round."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedsec.coordinator import attempt
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.plan.cost import distributed_step
from fedsec.plan.specs import DpSpec
from fedsec.site.ahead import AheadAgent
from fedsec.spool import Upload
from fedsec.training.public_step import after_sum
from fedsec.wire import KeysRequest, TrainRequest, decode_bundle, encode_bundle, sum_parameters
from fedsec_secure.codec import seal
from fedsec_secure.errors import AbortError, FedsecError, TransportError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking import keys as masks
from fedsec_secure.masking.coordinator_unmask import Total, Unmasked
from fedsec_secure.masking.messages import Statement
from fedsec_secure.masking.parameters import AHEAD, RoundContext
from fedsec_secure.masking.site_masked import SiteMasked
from fedsec_secure.masking.vector import sum_words
from fedsec_secure.numeric import shamir
from fedsec_secure.numeric.lanes import Lanes, unpack
from fedsec_secure.secrets import SecretBytes
from tests.e2e.federation import RUN, Federation, Keys, make_plan

SITES, D = 5, 192


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


def plan_of(keys, ahead=4, **changes):
    dp = DpSpec(
        mode="distributed", unit="record", target_epsilon=6.0, sampling_rate=0.05, dimension=D, keys_ahead=ahead
    )
    return make_plan(keys, dp=dp, **changes)


def in_the_open(federation: Federation, survivors: list[list[str]]):
    """What pooling the survivors' integers gives. A site's sums are in the order of the rounds that it trained in."""
    plan, state = federation.plan, federation.initial()
    step = distributed_step(plan)
    for index, sites in enumerate(survivors):
        total = sum(SUMS[s, index] for s in sites)
        unit = np.float32(step.clip / step.clip_in_steps / plan.dp.expected_batch)
        state = after_sum(plan, index, state, total.astype(np.float32) * unit)
    return state


SUMS: dict[tuple[str, int], np.ndarray] = {}


@pytest.fixture(autouse=True)
def remembered(monkeypatch):
    """Every site's integers by round, whichever process of the run drew them."""
    SUMS.clear()
    original = AheadAgent._ensure_update

    def ensure(self, place, adapter):
        known = len(self._work.sums)
        digest = original(self, place, adapter)
        if len(self._work.sums) > known:
            assert (self._id.me, place.round) not in SUMS, "a site drew twice for one round"
            SUMS[self._id.me, place.round] = self._work.sums[-1]
        return digest

    monkeypatch.setattr(AheadAgent, "_ensure_update", ensure)


def survivors(federation: Federation) -> list[list[str]]:
    return [e["survivors"] for e in federation.events if e["event"] == "round"]


class Losing:
    """A transport that loses some sites' answers: ``lose(exchange, times it was asked)`` names them."""

    def __init__(self, transport, lose) -> None:
        self.transport, self.lose, self.asked = transport, lose, Counter()

    def sites(self):
        return self.transport.sites()

    def exchange(self, exchange: Exchange, spool: Path) -> Outcome:
        self.asked[exchange.name, exchange.round] += 1
        out = set(self.lose(exchange.name, exchange.round, self.asked[exchange.name, exchange.round]))
        answered = self.transport.exchange(exchange, spool)
        kept = {s: r for s, r in answered.replies.items() if s not in out}
        return Outcome(kept, {**answered.lost, **dict.fromkeys(out & set(answered.replies), "lost on the way")})


def losing(lose):
    return lambda transport: Losing(transport, lose)


def test_a_round_costs_three_exchanges(tmp_path, keys):
    with Federation(tmp_path, keys, plan_of(keys, ahead=4, rounds=6)) as federation:
        adapter = federation.run()
        asked = Counter(e["exchange"] for e in federation.events if e["event"] == "exchange")
        assert adapter == in_the_open(federation, [list(keys.sites)] * 6)
    assert asked["step"] == asked["confirm"] == asked["unmask"] == 6
    assert asked["keys"] == asked["deal"] == asked["verdict"] == 2  # a batch of four, and one of two
    assert not asked["train"] + asked["share"] + asked["mask"]


def test_a_site_that_misses_a_step_is_out_until_the_batch_ends(tmp_path, keys):
    lose = lambda name, number, _: ["site-a"] if (name, number) == ("step", 1) else []  # noqa: E731
    with Federation(tmp_path, keys, plan_of(keys, ahead=3, rounds=6), carry=losing(lose)) as federation:
        adapter = federation.run()
        took_part = [("site-a" in s) for s in survivors(federation)]
        assert took_part == [True, False, False, True, True, True]
        assert adapter == in_the_open(federation, survivors(federation))


def test_a_round_that_cannot_be_had_ends_the_batch_and_the_next_goes_on_from_there(tmp_path, keys):
    def lose(name, number, times):
        return ["site-a", "site-b"] if (name, number, times) == ("step", 2, 1) else []

    with Federation(tmp_path, keys, plan_of(keys, ahead=4, rounds=6), carry=losing(lose)) as federation:
        adapter = federation.run()
        broken = [(e["round"], e["attempt"]) for e in federation.events if e["event"] == "attempt-aborted"]
        assert broken == [(2, 0)]
        assert survivors(federation) == [list(keys.sites)] * 6
        assert adapter == in_the_open(federation, survivors(federation))


def test_a_batch_whose_keys_do_not_come_together_is_tried_again(tmp_path, keys):
    lose = lambda name, _, times: ["site-a", "site-b"] if (name, times) == ("deal", 1) else []  # noqa: E731
    with Federation(tmp_path, keys, plan_of(keys, ahead=4, rounds=2), carry=losing(lose)) as federation:
        federation.run()
        assert survivors(federation) == [list(keys.sites)] * 2
        assert [e["attempt"] for e in federation.events if e["event"] == "attempt-aborted"] == [0]
    always = lambda name, *_: ["site-a", "site-b"] if name == "deal" else []  # noqa: E731
    with Federation(tmp_path / "never", keys, plan_of(keys, rounds=2), carry=losing(always)) as federation:
        with pytest.raises(AbortError, match="U2 has 3 sites, 4 are needed"):
            federation.run()
        assert not SUMS or all(number < 2 for _, number in SUMS)


class Killed(Exception):
    pass


def killed_at(moment: int, after: bool):
    """The coordinator dies at its ``moment``-th exchange, before the sites hear of it or after they answered."""

    class Dying:
        def __init__(self, transport) -> None:
            self.transport, self.count = transport, 0

        def sites(self):
            return self.transport.sites()

        def exchange(self, exchange, spool):
            self.count += 1
            if self.count == moment and not after:
                raise Killed
            outcome = self.transport.exchange(exchange, spool)
            if self.count == moment:
                raise Killed
            return outcome

    return Dying


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moment", [7, *(pytest.param(m, marks=pytest.mark.slow) for m in range(1, 23) if m != 7)])
def test_a_coordinator_that_is_killed_resumes_and_nobody_draws_twice(tmp_path, keys, moment, after):
    plan = plan_of(keys, ahead=2, rounds=4)
    with Federation(tmp_path, keys, plan, carry=killed_at(moment, after)) as federation:
        with pytest.raises(Killed):
            federation.run()
        before = survivors(federation)
    with Federation(tmp_path, keys, plan) as federation:
        adapter = federation.run()
        assert before + survivors(federation) == [list(keys.sites)] * 4
        assert adapter == in_the_open(federation, [list(keys.sites)] * 4)


def test_a_lying_coordinator_gets_no_further_step(tmp_path, keys, monkeypatch):
    honest = Unmasked.total

    def lie(self, uploads):
        total = honest(self, uploads)
        words = total.words.copy()
        words[3] += np.uint64(1)
        return Total(words, total.tag)

    monkeypatch.setattr(attempt.Unmasked, "total", lie)
    with Federation(tmp_path, keys, plan_of(keys, rounds=3)) as federation:
        with pytest.raises(AbortError, match="the verdict has 0 sites"):
            federation.run()
        lost = [e["sites"] for e in federation.events if e["event"] == "lost" and e["exchange"] == "step"]
        assert all("its tag does not fit" in why for why in lost[0].values())
        assert {number for _, number in SUMS} == {0}  # nobody trained on what the lie leads to


# ---- what one round's secrets open


class Hoarding:
    """A coordinator's transport that keeps a copy of every upload."""

    def __init__(self, transport) -> None:
        self.transport, self.kept = transport, {}

    def sites(self):
        return self.transport.sites()

    def exchange(self, exchange, spool):
        outcome = self.transport.exchange(exchange, spool)
        for site, path in outcome.uploads().items():
            self.kept[site, exchange.round] = spool.parent / f"{site}-{exchange.round}.kept"
            self.kept[site, exchange.round].write_bytes(path.read_bytes())
        return outcome


def test_a_reconstructed_key_of_one_round_opens_no_other(tmp_path, keys, monkeypatch):
    """All sites but one pool their shares of its secrets of one round. Control: that round is opened."""
    stages: dict[tuple[str, int], SiteMasked] = {}
    original = SiteMasked.enter.__func__

    def enter(cls, *args, **kwargs):
        state, head = original(cls, *args, **kwargs)
        number = sum(1 for who, _ in stages if who == state.shared.stated.me)
        stages[state.shared.stated.me, number] = state
        return state, head

    monkeypatch.setattr(SiteMasked, "enter", classmethod(enter))
    transports = []

    def carry(transport):
        transports.append(Hoarding(transport))
        return transports[-1]

    plan = plan_of(keys, ahead=2, rounds=2)
    with Federation(tmp_path, keys, plan, carry=carry) as federation:
        federation.run()
    victim, others = SiteId("site-c"), [SiteId(s) for s in keys.sites if s != "site-c"]
    order = sorted(keys.sites)

    def recovered(number: int) -> tuple[SecretBytes, SecretBytes]:
        found = {order.index(s) + 1: stages[s, number].shares[victim] for s in others}
        return tuple(shamir.combine({x: pair[i] for x, pair in found.items()}, 4) for i in (0, 1))

    def opened(upload_of: int, secrets: tuple[SecretBytes, SecretBytes]) -> np.ndarray:
        """The victim's upload of one round with some round's secrets, everything else being known."""
        stage, (seed, mask_key) = stages[victim, upload_of], secrets
        minus, plus = [masks.self_mask(seed, victim, stage.bound).vector], []
        for peer in others:
            public = Statement.decode(packet_body(stage.shared.statements[peer])).mask_key
            mask = masks.pair_mask(mask_key, public, victim, peer, stage.bound).vector
            (minus if victim < peer else plus).append(mask)
        parameters = sum_parameters(plan, D)
        words = Upload(transports[0].kept[victim, upload_of]).words()
        total = sum_words(parameters.words, [words], plus, minus)
        words.close()
        return np.concatenate(unpack(Lanes.named("3x21"), total))[:D]

    first, second = recovered(0), recovered(1)
    assert first[0].reveal() != second[0].reveal()
    assert first[1].reveal() != second[1].reveal()
    np.testing.assert_array_equal(opened(0, first), SUMS[victim, 0])
    np.testing.assert_array_equal(opened(1, second), SUMS[victim, 1])
    assert np.mean(opened(1, first) == SUMS[victim, 1]) < 0.05
    mixed = (first[0], second[1]), (second[0], first[1])
    assert all(np.mean(opened(1, some) == SUMS[victim, 1]) < 0.05 for some in mixed)


def packet_body(packet: bytes) -> bytes:
    from fedsec_secure.codec import head_length

    return packet[head_length(packet) :]


# ---- hostile requests


class Meddling:
    """Changes one request on its way to one site."""

    def __init__(self, agent, exchange: str, meddle) -> None:
        self.agent, self.exchange, self.meddle, self.why, self.earlier = agent, exchange, meddle, [], []

    def handle(self, name, body):
        if name != self.exchange:
            return self.agent.handle(name, body)
        changed = self.meddle(body, self.earlier)
        self.earlier.append(body)
        try:
            return self.agent.handle(name, changed)
        except FedsecError as e:
            self.why.append(str(e))
            raise TransportError(str(e)) from e


def context(federation_keys: Keys, plan, number: int, attempt_number: int = 0) -> bytes:
    from fedsec.wire import core_roster

    roster = core_roster(plan).digest()
    return RoundContext(plan.digest(), RUN, number, attempt_number, roster, AHEAD).digest()


def asked_for(keys, plan, number: int, count: int) -> bytes:
    body = KeysRequest(RUN, number, 0, count).encode()
    return seal("keys-request", COORDINATOR, context(keys, plan, number), body, keys.coordinator.sign)


def other_start(keys, plan, number: int):
    """The same masks, and what the round starts from signed for another round."""

    def meddle(body, earlier):
        _, masks_part = decode_bundle(body)
        request = TrainRequest(RUN, number, 0, b"", {}).encode()
        start = seal("train-request", COORDINATOR, context(keys, plan, 0), request, keys.coordinator.sign)
        return encode_bundle([start, masks_part])

    return meddle


def skipping(body, earlier):
    """The masks of the second round with what the first one started from."""
    if not earlier:
        return body
    return encode_bundle([decode_bundle(earlier[0])[0], decode_bundle(body)[1]])


def sum_before_last(body, earlier):
    """The masks of the third round with the sum of the first, which was verified when the second began."""
    return body if len(earlier) < 2 else encode_bundle([decode_bundle(earlier[1])[0], decode_bundle(body)[1]])


def masks_before_last(body, earlier):
    """The sum of the second round, with its own masks instead of the third's."""
    return body if len(earlier) < 2 else encode_bundle([decode_bundle(body)[0], decode_bundle(earlier[1])[1]])


def signed_for_another_round(keys, plan):
    body = KeysRequest(RUN, 0, 0, 3).encode()
    return seal("keys-request", COORDINATOR, context(keys, plan, 1), body, keys.coordinator.sign)


def forged_masks(body, earlier):
    """The coordinator's own start, with a mask request that it did not sign."""
    start, masks_part = decode_bundle(body)
    return encode_bundle([start, masks_part[:-1] + bytes([masks_part[-1] ^ 1])])


def test_a_site_reads_no_notes_for_masks_that_nobody_signed(tmp_path, keys):
    plan = plan_of(keys, rounds=1)
    wrap = lambda site, agent: Meddling(agent, "step", forged_masks) if site == "site-b" else agent  # noqa: E731
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        federation.run()
        assert ("site-b", 0) not in SUMS
        assert federation.ledgers["site-b"].history() == ()


@pytest.mark.parametrize(
    ("exchange", "meddle", "why"),
    [
        ("keys", lambda k, p: lambda body, _: asked_for(k, p, 0, 5), "keys of 5 rounds are asked for; expected 4"),
        ("keys", lambda k, p: lambda body, _: asked_for(k, p, 1, 3), "a round below 3"),
        ("keys", lambda k, p: lambda body, _: signed_for_another_round(k, p), "signed for another plan, run, round"),
        ("deal", lambda k, p: lambda body, _: encode_bundle([]), "shares of no round are asked for"),
        ("step", lambda k, p: other_start(k, p, 1), "is for another round than its masks"),
        ("step", lambda k, p: skipping, "belongs to another plan, run, round"),
        ("step", lambda k, p: sum_before_last, "does not start from the sum that came with it"),
        ("step", lambda k, p: masks_before_last, "round 1 does not start from the sum of round 1"),
        ("step", lambda k, p: forged_masks, "does not match its signed hash"),
        ("step", lambda k, p: lambda body, _: encode_bundle(decode_bundle(body)[:1]), "expected 2 messages, found 1"),
    ],
    ids=[
        "too many",
        "beyond the plan",
        "keys for another round",
        "no shares",
        "another round's start",
        "a skipped sum",
        "an older sum",
        "older masks",
        "forged masks",
        "no masks",
    ],
)
def test_a_site_refuses_what_is_not_due(tmp_path, keys, exchange, meddle, why):
    plan, seen = plan_of(keys, rounds=3), []

    def wrap(site, agent):
        if site != "site-b":
            return agent
        seen.append(Meddling(agent, exchange, meddle(keys, plan)))
        return seen[0]

    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        federation.run()
        assert len(survivors(federation)) == 3
    assert why in seen[0].why[0]
