"""The encryption's numbers: what is in the tables, and what is past the bound."""

import pytest
from sympy import isprime

from fedsec_secure.errors import ConfigError
from fedsec_secure.he.parameters import LARGEST_ERROR, STANDARD, BfvParameters


def test_the_standard_ones():
    q, t = STANDARD.modulus, STANDARD.plain_modulus
    assert isprime(q)
    assert q.bit_length() == 60
    assert t == 2**46
    assert q % t == 1
    assert q % (2 * STANDARD.degree) == 1, "SEAL multiplies by number-theoretic transforms"
    assert not any(isprime(k * t + 1) for k in range(STANDARD.multiple + 1, 2**14)), "the largest such prime"


def test_bytes_of_an_upload_are_4_a_parameter():
    words = 1_000_000 // 2
    assert STANDARD.upload_bytes(words) == 123 * (64 + 32768)
    assert STANDARD.upload_bytes(words) / 1e6 < 4.2
    assert STANDARD.sum_bytes(words, 10) == 123 * (640 + 32768)
    assert STANDARD.blocks(1) == STANDARD.blocks(4096) == 1
    assert STANDARD.blocks(4097) == 2


def test_the_capacity_is_the_largest_that_the_proof_allows():
    noise = LARGEST_ERROR + 1.5

    def holds(weights: int) -> bool:
        return weights * noise + 1 + 1 <= (STANDARD.multiple - 1) / 2

    assert holds(STANDARD.capacity)
    assert not holds(STANDARD.capacity + 1)
    STANDARD.check_weights(STANDARD.capacity)
    for total in (0, -1, STANDARD.capacity + 1):
        with pytest.raises(ConfigError, match=f"up to weights of {STANDARD.capacity} in all, found {total}"):
            STANDARD.check_weights(total)


@pytest.mark.parametrize(
    ("degree", "multiple", "bits"),
    [
        (2048, 16339, 46),  # 60 bits at 2048
        (2048, 129, 46),  # 54 bits: in the table of 2018, past that of 2024
        (4096, 65521, 46),  # 62 bits: SEAL's primes have 60
        (4096, 16339, 0),
        (4095, 16339, 46),
        (4096, 3, 8),  # q - 1 is no multiple of 2 N
    ],
)
def test_others_are_refused(degree, multiple, bits):
    with pytest.raises(ConfigError, match="BFV"):
        BfvParameters(degree, multiple, bits)
