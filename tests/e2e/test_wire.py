"""What a site sends tells nobody its update, its count or its notes: lengths, fields, statistics, and a coordinator
that keeps everything and tries to decode.

A run of these tests raises a false alarm with probability below 1e-4 (about a hundred tests at ``ALPHA``): the masks
come from the operating system, so no seed can make it zero.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from fedsec.plan.specs import EvaluationSpec
from fedsec.training.strategies import local_update
from fedsec.wire import WitnessReply, sum_parameters
from fedsec_secure.codec import SIGNATURE_BYTES, Header, head_length
from fedsec_secure.masking import keys as masking_keys
from fedsec_secure.masking.messages import Dealing, Revealed, ShareReply, Statement
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.vector import sum_words
from fedsec_secure.numeric import lanes, shamir
from fedsec_secure.numeric.keystream import CHUNK_WORDS, ArraySource, Keystream
from fedsec_secure.record.note import NoteSignature
from fedsec_secure.secrets import SecretBytes
from tests.e2e.federation import RUN, ArithmeticWork, Federation, Keys, make_plan, tiny_base, tiny_work

ALPHA = 1e-6
SITES = 4
MASKED = ("train", "share", "mask", "confirm", "unmask", "verdict", "baseline")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


@dataclass
class Tap:
    """Everything that one site received and sent, in order."""

    agent: object
    sent: dict[str, bytes] = field(default_factory=dict)
    received: dict[str, bytes] = field(default_factory=dict)

    def handle(self, name: str, body: bytes):
        reply = self.agent.handle(name, body)
        self.received[name] = body
        self.sent[name] = reply if isinstance(reply, bytes) else reply.read_bytes()
        return reply


def tapped(folder, keys, plan, work, *, without: dict[str, str] | None = None) -> tuple[Federation, dict[str, Tap]]:
    """One whole round; ``without``: site -> the exchange that it no longer answers."""
    taps: dict[str, Tap] = {}

    def wrap(site, agent):
        taps[site] = Tap(agent)
        return taps[site]

    federation = Federation(folder, keys, plan, work=work, wrap=wrap)
    with federation:
        runner = federation.runner()
        for site, exchange in (without or {}).items():
            silence(taps[site], exchange)
        federation.adapter = runner.rounds(federation.initial())
        if "single" in plan.evaluation.baselines:
            runner.baselines(bytes)
        runner.close(federation.adapter, runner.attest(federation.adapter))
    return federation, taps


def silence(tap: Tap, exchange: str) -> None:
    from fedsec_secure.errors import TransportError

    handle = tap.handle

    def until(name: str, body: bytes):
        if name in MASKED[MASKED.index(exchange) :]:
            raise TransportError("gone")
        return handle(name, body)

    tap.handle = until


# ---- lengths and fields


def fields_of(name: str, data: bytes, parameters: SumParameters) -> list[tuple[str, int]]:
    """A message taken apart by its decoder: the name and length of every field."""
    if name == "share":
        reply = ShareReply.decode(data)
        dealing = Dealing.decode(reply.packet[head_length(reply.packet) :])
        promises = [(site, "promise") for site in dealing.promises]
        return [("packet", len(reply.packet)), *promises, *(("sealed", len(b)) for b in reply.sealed)]
    cut = head_length(data)
    header = Header.decode(data[6 : cut - SIGNATURE_BYTES])
    body = data[cut:]
    out = [(header.kind, header.body_length), (header.sender, cut)]
    if name == "train":
        Statement.decode(body)
    elif name == "mask":
        assert len(body) == parameters.masked_bytes
    elif name == "unmask":
        out += [(f"{site} {kind.name}", len(share)) for site, (kind, share) in Revealed.decode(body).shares.items()]
    elif name == "witness":
        signature = NoteSignature.parse(WitnessReply.decode(body).line)  # as long as the site's name makes it
        out += [(signature.name, len(signature.signature))]
    elif name == "attest":
        payload = json.loads(base64.b64decode(json.loads(body)["payload"]))
        out += [(field, len(json.dumps(value))) for field, value in payload.items()]
    else:
        assert len(body) == 32
    return out


def pattern(taps: dict[str, Tap], parameters: SumParameters) -> dict:
    return {
        (site, name): (len(data), fields_of(name, data, parameters))
        for site, tap in taps.items()
        for name, data in tap.sent.items()
    }


def test_lengths_and_fields_do_not_depend_on_update_count_or_notes(tmp_path, keys):
    """Counts at both ends of the plan's bounds, updates a thousand times larger, other tastes: the same pattern."""
    plan = make_plan(keys, rounds=1, rule="size")

    def small(name, plan):
        return ArithmeticWork(name, plan, count=10, spread=1e-4)

    def large(name, plan):
        return ArithmeticWork(name, plan, count=40, spread=0.1, taste=b"another hospital")

    first, one = tapped(tmp_path / "1", keys, plan, small)
    second, two = tapped(tmp_path / "2", keys, plan, large)
    parameters = sum_parameters(plan, first.initial().size)
    assert pattern(one, parameters) == pattern(two, parameters)
    assert list(one["site-a"].sent) == [*MASKED[:-1], "witness", "attest"]
    assert first.adapter != second.adapter


def test_lengths_and_fields_do_not_depend_on_the_notes_of_a_real_training(tmp_path, keys):
    """The same with LoRA training: two examples beside six, and other words in them."""
    plan = make_plan(keys, rounds=1, rule="size", weights_sha256=tiny_base().weights_sha256)
    patterns = []
    for folder, count, ward in (("1", 2, ""), ("2", 6, "-on-a-ward-with-a-long-name")):
        federation, taps = tapped(
            tmp_path / folder, keys, plan, lambda name, plan, c=count, w=ward: tiny_work(name + w, plan, c)
        )
        parameters = sum_parameters(plan, federation.initial().size)
        patterns.append(pattern(taps, parameters))
    assert patterns[0] == patterns[1]


def test_nothing_that_is_sent_holds_the_update_or_its_hash(tmp_path, keys):
    """No eight bytes of the update stand in anything that left, nor its hash, by which a guess could be checked."""
    plan = make_plan(keys, rounds=1, rule="size", evaluation=EvaluationSpec(baselines=("single",)))
    federation, taps = tapped(tmp_path, keys, plan, lambda n, p: ArithmeticWork(n, p, count=23))
    for site, tap in taps.items():
        work = federation.works[site]
        update = local_update("fedit", work.initial_adapter(), work.train(work.initial_adapter(), RUN, 0, None), 0)
        sent = b"".join(data for name, data in tap.sent.items() if name != "baseline")
        raw = update.tobytes()
        assert hashlib.sha256(raw).digest() not in sent
        assert not [i for i in range(0, len(raw) - 8, 4) if raw[i : i + 8] in sent]


# ---- statistics


def survival_of_chi2(statistic: float, freedom: int) -> float:
    """P(χ² > statistic), from torch's regularised upper incomplete gamma function."""
    import torch

    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def looks_uniform(words: np.ndarray) -> bool:
    """χ² over the 256 byte values, at each of the 8 byte places, and over each of the 64 bits; Bonferroni."""
    octets = words.astype("<u8").view(np.uint8).reshape(-1, 8)
    tests = []
    for chosen in (octets.reshape(-1), *(octets[:, i] for i in range(8))):
        counts = np.bincount(chosen, minlength=256)
        expected = len(chosen) / 256
        tests.append(survival_of_chi2(float(((counts - expected) ** 2).sum() / expected), 255))
    ones = np.unpackbits(octets, axis=1).sum(axis=0, dtype=np.int64)
    n = len(words)
    tests += [survival_of_chi2(float((2 * int(c) - n) ** 2 / n), 1) for c in ones]
    return min(tests) >= ALPHA / len(tests)


BIG = 4096


def wide(name, plan, count=20):
    """Updates of 65,536 coordinates: enough words for χ² over bytes at each place."""
    return ArithmeticWork(name, plan, count=count, hidden=BIG)


def body_words(data: bytes) -> np.ndarray:
    return np.frombuffer(data[head_length(data) :], dtype="<u8")


def test_chi2_agrees_with_its_tables():
    assert survival_of_chi2(3.841, 1) == pytest.approx(0.05, abs=1e-4)
    assert survival_of_chi2(310.457, 255) == pytest.approx(0.01, abs=1e-4)


def test_masked_words_are_uniform_and_words_without_masks_are_not(tmp_path, keys):
    _, masked = tapped(tmp_path / "mask", keys, make_plan(keys, rounds=1, rule="size"), wide)
    uploads = {site: body_words(tap.sent["mask"]) for site, tap in masked.items()}
    for words in uploads.values():
        assert looks_uniform(words)
    for a, b in itertools.combinations(uploads.values(), 2):
        assert looks_uniform(a - b)
        assert looks_uniform(a + b)
    plain = Federation(tmp_path / "none", keys, make_plan(keys, rounds=1, rule="size", mode="none"), work=wide)
    taps = {}
    plain.wrap = lambda site, agent: taps.setdefault(site, Tap(agent))
    with plain:
        plain.run()
    assert not any(looks_uniform(body_words(tap.sent["plain"])) for tap in taps.values())


# ---- a coordinator that keeps everything


@dataclass
class Hoarder:
    """Every reply of a masked round, and all that can be computed from them together with the coordinator's key."""

    taps: dict[str, Tap]
    parameters: SumParameters
    threshold: int

    def __post_init__(self) -> None:
        self.roster = sorted(self.taps)
        self.statements = {s: Statement.decode(body(t.sent["train"])) for s, t in self.taps.items() if t.sent}
        self.u2 = [s for s in self.roster if "share" in self.taps[s].sent]
        self.survivors = [s for s in self.roster if "mask" in self.taps[s].sent]
        self.uploads = {s: body_words(self.taps[s].sent["mask"]) for s in self.survivors}
        head = self.taps[self.survivors[0]].sent["mask"]
        self.bound = Header.decode(head[6 : head_length(head) - 64]).context
        self.secrets = {dealer: self._recover(dealer) for dealer in self.u2}

    def _recover(self, dealer: str) -> SecretBytes:
        shares = {}
        for site in self.survivors:
            if "unmask" in self.taps[site].sent:
                _, share = Revealed.decode(body(self.taps[site].sent["unmask"])).shares[dealer]
                shares[self.roster.index(site) + 1] = share
        return shamir.combine(shares, self.threshold)

    def peeled(self, site: str) -> np.ndarray:
        """The upload without the self mask and without the pair masks with dropped sites: all that is recoverable."""
        plus, minus = [], [masking_keys.self_mask(self.secrets[site], site, self.bound).vector]
        for dropped in set(self.u2) - set(self.survivors):
            public = self.statements[site].mask_key
            key = masking_keys.pair_mask(self.secrets[dropped], public, dropped, site, self.bound).vector
            (minus if site < dropped else plus).append(key)
        return sum_words(self.parameters.words, [ArraySource(self.uploads[site])], plus, minus)


def body(packet: bytes) -> bytes:
    return packet[head_length(packet) :]


def read_count(words: np.ndarray, parameters: SumParameters) -> int | None:
    """What the first limbs say, or None where the words are no single site's encoding."""
    planes = lanes.unpack(parameters.fixed.lanes, np.ascontiguousarray(words))
    ints = np.concatenate(planes)
    inside = np.abs(ints[parameters.limbs :].astype(np.int64)) <= parameters.fixed.largest
    count = sum(int(v) << (parameters.limb_bits * i) for i, v in enumerate(ints[: parameters.limbs]))
    return count if inside.all() and 1 <= count <= parameters.weight_max else None


PLANTED = {"site-a": 11, "site-b": 23, "site-c": 37, "site-d": 40}


def planted(name, plan):
    return wide(name, plan, PLANTED[name])


@pytest.mark.parametrize("without", [{}, {"site-d": "mask"}, {"site-a": "mask"}, {"site-b": "unmask"}])
def test_all_of_the_coordinators_state_opens_no_count_and_no_update(tmp_path, keys, without):
    """It holds every reply, every revealed share, every recovered seed and key. What it can peel off an upload leaves
    words that are still uniform and no encoding, alone and for every set of survivors but the whole one.
    """
    plan = make_plan(keys, rounds=1, rule="size")
    federation, taps = tapped(tmp_path, keys, plan, planted, without=without)
    parameters = sum_parameters(plan, federation.initial().size)
    hoard = Hoarder(taps, parameters, plan.secure.threshold)
    peeled = {site: hoard.peeled(site) for site in hoard.survivors}
    assert ("site-b" in peeled) == (without.get("site-b") != "mask")
    for size in range(1, len(peeled)):
        for chosen in itertools.combinations(peeled, size):
            partial = sum((peeled[s] for s in chosen), np.uint64(0))
            assert looks_uniform(partial), chosen
            assert read_count(partial, parameters) is None
    total = sum(peeled.values(), np.uint64(0))
    assert not looks_uniform(total), "the whole sum must open, or this test proves nothing"
    limbs = lanes.unpack(parameters.fixed.lanes, total[:1])[0]
    assert int(limbs[0]) == sum(PLANTED[s] for s in peeled)


def test_the_same_decoder_reads_every_count_where_nothing_is_masked(tmp_path, keys):
    plan = make_plan(keys, rounds=1, rule="size", mode="none")
    taps = {}
    federation = Federation(
        tmp_path, keys, plan, work=planted, wrap=lambda site, agent: taps.setdefault(site, Tap(agent))
    )
    with federation:
        federation.run()
        parameters = sum_parameters(plan, federation.initial().size)
    found = {site: read_count(body_words(tap.sent["plain"]), parameters) for site, tap in taps.items()}
    assert found == PLANTED


def test_the_masks_of_two_attempts_and_rounds_have_nothing_in_common(tmp_path, keys):
    """The same update is encoded to the same integers in every attempt: equal masks would show as equal words."""
    uploads = []

    class Keep:
        def __init__(self, site, agent):
            self.site, self.agent = site, agent

        def handle(self, name, request):
            reply = self.agent.handle(name, request)
            if name == "mask" and self.site == "site-a":
                uploads.append(body_words(reply.read_bytes()))
            if name == "mask" and self.site in ("site-c", "site-d") and len(uploads) == 1:
                from fedsec_secure.errors import TransportError

                raise TransportError("lost on the way")
            return reply

    plan = make_plan(keys, rounds=2)
    with Federation(tmp_path, keys, plan, work=wide, wrap=Keep) as federation:
        federation.run()
    assert len(uploads) == 3
    for a, b in itertools.combinations(uploads, 2):
        assert looks_uniform(a - b)


def test_uniformity_is_sensitive_to_one_biased_bit():
    words = np.empty(CHUNK_WORDS, dtype="<u8")
    Keystream(SecretBytes.random()).read_into(words)
    assert looks_uniform(words)
    biased = words | (np.arange(len(words)) % 8 == 0).astype(np.uint64)
    assert not looks_uniform(biased)
