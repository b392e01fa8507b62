"""Shamir's scheme: any t of n, nothing below t, and the semantics of an independent implementation."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
import shamirs

from fedsec_secure.errors import CodecError, LocalMisuseError, PeerViolationError
from fedsec_secure.numeric.shamir import PRIME, SHARE_BYTES, combine, decode_share, encode_share, split
from fedsec_secure.secrets import SecretBytes

SECRETS = [bytes(32), b"\xff" * 32, bytes(range(32))]


def is_prime(n: int) -> bool:
    """Miller and Rabin with fixed bases: an error below 4^-40."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in [random.Random(i).randrange(2, n - 1) for i in range(40)]:
        x = pow(base, odd, n)
        if x not in (1, n - 1) and not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_the_field_is_the_smallest_prime_above_all_secrets():
    assert is_prime(PRIME)
    assert not any(is_prime(n) for n in range(2**256, PRIME))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(("t", "n"), [(1, 1), (1, 3), (2, 3), (3, 3), (3, 5), (4, 5), (5, 7)])
def test_any_t_of_n_recover_the_secret(secret, t, n):
    shares = split(SecretBytes(secret), t, n)
    assert sorted(shares) == list(range(1, n + 1))
    for size in (t, n):
        for chosen in itertools.combinations(shares, size):
            assert combine({x: shares[x] for x in chosen}, t).reveal() == secret


@pytest.mark.parametrize(("t", "n"), [(2, 3), (4, 5), (7, 10), (67, 100)])
def test_agrees_with_an_independent_implementation(t, n):
    secret = SecretBytes.random()
    number = int.from_bytes(secret.reveal(), "big")
    ours = [shamirs.share(x, decode_share(s), PRIME) for x, s in split(secret, t, n).items()]
    assert shamirs.interpolate(ours[-t:], threshold=t) == number
    theirs = {s.index: encode_share(s.value) for s in shamirs.shares(number, n, modulus=PRIME, threshold=t)}
    assert combine(theirs, t) == secret


@pytest.mark.parametrize(("t", "n"), [(2, 3), (4, 5)])
def test_fewer_than_t_shares_fit_every_secret(t, n):
    """For each candidate there is a last share that completes the t - 1 known ones to it: they say nothing."""
    shares = split(SecretBytes.random(), t, n)
    known = {x: shares[x] for x in range(1, t)}
    for candidate in SECRETS:
        points = [shamirs.share(x, decode_share(s), PRIME) for x, s in known.items()]
        at_zero = int.from_bytes(candidate, "big")
        missing = _extend([(0, at_zero), *((p.index, p.value) for p in points)], t)
        assert combine(known | {t: encode_share(missing)}, t).reveal() == candidate


def _extend(points: list[tuple[int, int]], x: int) -> int:
    """The value at ``x`` of the polynomial through the points."""
    total = 0
    for i, yi in points:
        term = yi
        for j, _ in points:
            if i != j:
                term = term * (x - j) * pow(i - j, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def test_shares_of_one_secret_are_fresh_each_time():
    secret = SecretBytes(bytes(32))
    first, second = split(secret, 3, 4), split(secret, 3, 4)
    assert all(first[x] != second[x] for x in first)
    with pytest.raises(LocalMisuseError):
        combine({1: first[1], 2: first[2]}, 3)
    mixed = {1: first[1], 2: first[2], 3: second[3]}
    with contextlib.suppress(PeerViolationError):  # where the result is above 2^256
        assert combine(mixed, 3) != secret


def test_a_result_that_is_no_secret_is_named():
    with pytest.raises(PeerViolationError, match="do not fit together"):
        combine({1: encode_share(2**256 + 5)}, 1)


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34), PRIME.to_bytes(33, "big"), b"\xff" * 33])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(CodecError):
        decode_share(share)


def test_share_encoding_round_trips_at_the_edges():
    for value in (0, 1, 2**256 - 1, PRIME - 1):
        assert decode_share(encode_share(value)) == value
        assert len(encode_share(value)) == SHARE_BYTES


@pytest.mark.parametrize(("t", "n", "size"), [(0, 3, 32), (4, 3, 32), (2, 3, 31), (2, 3, 33)])
def test_impossible_splits_are_refused(t, n, size):
    with pytest.raises(LocalMisuseError):
        split(SecretBytes(bytes(size)), t, n)


def test_x_zero_would_be_the_secret():
    with pytest.raises(LocalMisuseError):
        combine({0: encode_share(1), 1: encode_share(1)}, 2)
