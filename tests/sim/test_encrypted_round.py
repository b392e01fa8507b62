"""The masked round with encryption outside: the same sum, bit for bit, and the coordinator never has it; also where one
site's key is on its side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedsec_secure.errors import ConfigError, LocalMisuseError, PeerViolationError
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import Ring, SumFrames, sum_frames
from fedsec_secure.masking import keys
from fedsec_secure.masking.coordinator_unmask import ClosedTotal
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.site_shared import SiteShared
from fedsec_secure.masking.tag import PRIME
from fedsec_secure.masking.vector import decode_sum
from fedsec_secure.numeric.keystream import ArraySource, Keystream
from fedsec_secure.secrets import SecretBytes
from tests.sim.network import EXCHANGES, SimNetwork, body_of, parameters_for

SITES = ["site-a", "site-b", "site-c", "site-d", "site-e"]
LENGTH = 9000
RNG = np.random.default_rng(7)
UPDATES = {s: (RNG.standard_normal(LENGTH) * 0.05).astype(np.float32) for s in SITES}


@pytest.fixture(scope="module")
def cipher():
    made = BfvCipher(SecretBytes.random())
    yield made
    made.close()


def parameters(**options) -> SumParameters:
    return parameters_for(len(SITES), LENGTH, ring="2x23", **options)


def network(cipher: BfvCipher | None, drops: dict[str, str] | None = None, **options) -> SimNetwork:
    found = parameters(**options)
    if cipher is not None:
        found = replace(found, encryption=STANDARD)
    net = SimNetwork(UPDATES, found, 4)
    for index, (name, site) in enumerate(net.sites.items()):
        site.cipher, site.coins = cipher, SecretBytes(bytes([index + 1]) * 32)
        site.weight = 3 + index if options else 1
        site.drops_at = (drops or {}).get(name)
    return net


def opened(cipher: BfvCipher, total: SumFrames) -> np.ndarray:
    return cipher.decrypt(total)[: parameters().words]


def judge(net: SimNetwork, cipher: BfvCipher, closed: ClosedTotal) -> dict[str, str]:
    """Every confirmed site's check; site -> refusal, empty where it accepts."""
    refusals = {}
    words = cipher.decrypt(closed.frames)[: net.parameters.words]
    for name, site in net.sites.items():
        if site.drops_at is None:
            heads = site.state.confirmed.survivors
            try:
                site.state.check_sum(heads, words, closed.tag, net.parameters, net.group)
            except PeerViolationError as e:
                refusals[name] = str(e)
    return refusals


@pytest.mark.parametrize("where", [None, *EXCHANGES])
@pytest.mark.parametrize("hidden", [False, True])
def test_the_sum_is_that_of_masks_alone_bit_for_bit(cipher, where, hidden):
    options = {"weight_max": 9, "hidden": True} if hidden else {}
    drops = {} if where is None else {"site-b": where}
    plain = network(None, drops, **options)
    done = plain.run()
    net = network(cipher, drops, **options)
    closed, stages = net.run_closed()
    words = cipher.decrypt(closed.frames)[: net.parameters.words]
    assert np.array_equal(words, done.total)
    assert tuple(stages["masked"].heads) == done.survivors
    assert judge(net, cipher, closed) == {}
    public = None if hidden else len(done.survivors)
    first = decode_sum(net.parameters, words, len(done.survivors), public)
    second = decode_sum(plain.parameters, done.total, len(done.survivors), public)
    assert np.array_equal(first.mean, second.mean)
    assert first.total_weight == second.total_weight


def test_the_coordinator_has_neither_sum_nor_key(cipher):
    """What it holds is as far from the sum as random words are: no coefficient tells its high bits."""
    closed, _ = network(cipher).run_closed()
    words = opened(cipher, closed.frames)
    seen = closed.frames.c0.reshape(-1)[: len(words)] // np.uint64(STANDARD.multiple)
    correlated = np.corrcoef(seen.astype(float), (words & np.uint64(STANDARD.plain_modulus - 1)).astype(float))[0, 1]
    assert abs(correlated) < 5 / np.sqrt(len(words))
    stranger = BfvCipher(SecretBytes.random())
    assert (opened(stranger, closed.frames) == words).mean() < 0.01


def uploads_of(net: SimNetwork) -> dict[str, np.ndarray]:
    return {s: body_of(site.sent["mask"], net.parameters)[:-1] for s, site in net.sites.items()}


def test_one_sites_key_opens_an_upload_to_masked_words(cipher):
    """Coordinator and one site together: beneath the encryption are the masks, the self-mask among them."""
    net = network(cipher)
    net.run_closed()
    upload = uploads_of(net)["site-c"]
    alone = opened(cipher, sum_frames([ArraySource(upload)], STANDARD, net.parameters.words))
    encoded = net.sites["site-c"].encoded(net.parameters)
    assert (alone == encoded).mean() < 0.01
    values = (alone & np.uint64(STANDARD.plain_modulus - 1)).astype(float) / STANDARD.plain_modulus
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * len(values)), "uniform: they tell nothing"


def test_a_site_falsely_called_dropped_stays_closed(cipher):
    """Its mask key is recovered, its pair masks fall away, and its self-mask does not."""
    net = network(cipher)
    late = {}

    def hold_back(name, site, data):
        if name == "mask" and site == "site-c":
            late[site] = body_of(data, net.parameters)[:-1].copy()
            return b""
        return data

    net.tamper_reply = hold_back
    net.lenient = True
    _, stages = net.run_closed()
    assert "site-c" not in stages["masked"].heads
    unmasked, words = stages["unmasked"], net.parameters.words
    bound = stages["shared"].bound
    theirs = [self_mask_of(net, s, bound).vector for s in stages["masked"].heads]
    opposite = [m.vector for m in unmasked.plus if m.vector not in theirs]
    same = [m.vector for m in unmasked.minus if m.vector not in theirs]
    assert len(opposite) + len(same) == 4, "its mask with each of the others was recovered"
    left = opened(cipher, sum_frames([ArraySource(late["site-c"])], STANDARD, words))
    left = left + keystreams(same, words) - keystreams(opposite, words) - net.sites["site-c"].encoded(net.parameters)
    t = np.uint64(STANDARD.plain_modulus - 1)
    hidden = keystreams([self_mask_of(net, "site-c", bound).vector], words)
    assert np.array_equal(left & t, hidden & t), "what is left on its words is its self-mask, all of it"
    assert self_mask_of(net, "site-c", bound).vector not in [m.vector for m in (*unmasked.plus, *unmasked.minus)]


def self_mask_of(net: SimNetwork, name: str, bound: bytes) -> keys.Mask:
    """From the site's own record."""
    state = net.sites[name].state
    for before in ("confirmed", "masked", "shared"):
        state = getattr(state, before, state)
    assert isinstance(state, SiteShared)
    return keys.self_mask(state.seed, state.stated.me, bound)


def keystreams(vectors: list[SecretBytes], words: int) -> np.ndarray:
    """Their sum, modulo 2^64."""
    total = np.zeros(words, dtype="<u8")
    for vector in vectors:
        drawn = np.empty(words, dtype="<u8")
        Keystream(vector).read_into(drawn)
        total += drawn
    return total


def of_one(net, closed, cipher):
    return ClosedTotal(sum_frames([ArraySource(uploads_of(net)["site-a"])], STANDARD, net.parameters.words), closed.tag)


def of_four(net, closed, cipher):
    sources = [ArraySource(u) for s, u in uploads_of(net).items() if s != "site-e"]
    return ClosedTotal(sum_frames(sources, STANDARD, net.parameters.words), closed.tag)


def of_another_round(net, closed, cipher):
    return network(cipher).run_closed()[0]


def with_a_flipped_bit(net, closed, cipher):
    closed.frames.c0[0, 17] ^= np.uint64(1 << 40)
    return closed


def with_another_seed(net, closed, cipher):
    closed.frames.seeds[1, 2, 5] ^= 1
    return closed


def moved_by_a_step(net, closed, cipher):
    """The coordinator can add plaintexts without the key: one integer, to one coordinate."""
    plain = np.zeros(STANDARD.degree, dtype="<u8")
    plain[3] = 1
    Ring(STANDARD).add_plain(closed.frames.c0[0], plain)
    return closed


def twice(net, closed, cipher):
    frames = SumFrames(closed.frames.c0, closed.frames.seeds)
    Ring(STANDARD).add(frames.c0.reshape(-1), frames.c0.reshape(-1).copy())
    return ClosedTotal(frames, 2 * closed.tag % PRIME)


def with_another_tag(net, closed, cipher):
    return ClosedTotal(closed.frames, (closed.tag + 1) % PRIME)


@pytest.mark.parametrize(
    "forge",
    [
        of_one,
        of_four,
        of_another_round,
        with_a_flipped_bit,
        with_another_seed,
        moved_by_a_step,
        twice,
        with_another_tag,
    ],
)
def test_every_site_refuses_what_is_not_the_sum(cipher, forge):
    net = network(cipher)
    closed, _ = net.run_closed()
    assert judge(net, cipher, closed) == {}
    assert set(judge(net, cipher, forge(net, closed, cipher))) == set(net.sites)


def test_an_upload_of_bare_words_is_neither_made_nor_taken(cipher):
    net = network(cipher)
    net.sites["site-b"].cipher = None
    net.lenient = True
    with pytest.raises(LocalMisuseError, match="encrypted where the plan says so"):
        network_mask(net)
    bare = network(None)
    bare.sites["site-b"].cipher = cipher
    with pytest.raises(LocalMisuseError, match="encrypted where the plan says so"):
        network_mask(bare)


def network_mask(net: SimNetwork) -> None:
    """Up to site-b's upload, whose refusal of its own is an error here."""
    net.lenient = False
    net.run_to_sum()


def test_lanes_and_sites_that_do_not_fit_are_refused():
    fixed = parameters_for(5, 10, ring="2x32").fixed
    with pytest.raises(ConfigError, match="64 bits of lanes do not fit the 46"):
        SumParameters(fixed, 10, 1, False, encryption=STANDARD)
    many = parameters_for(STANDARD.capacity + 1, 10, ring="2x23").fixed
    with pytest.raises(ConfigError, match=f"up to weights of {STANDARD.capacity} in all"):
        SumParameters(many, 10, 1, False, encryption=STANDARD)
