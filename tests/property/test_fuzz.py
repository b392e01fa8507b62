"""A short run of the fuzzer over every decoder; the long one is `python -m tests.property.fuzz`."""

import pytest

from fedsec_secure.errors import CodecError
from tests.property.fuzz import check, fuzz, targets
from tests.property.target import Target


@pytest.mark.parametrize("name", list(targets()))
def test_mutated_messages_are_a_value_or_the_decoders_error(name):
    done, values = fuzz(name, seed=1, cases=400)
    assert done == 400
    assert values < done, "nothing was refused: the mutations change nothing"


@pytest.mark.parametrize("name", sorted(set(targets()) - {"packet", "head", "approval"}))
def test_the_unchanged_messages_are_values(name):
    assert all(check(targets()[name], good) for good in targets()[name].good)


def test_the_check_notices_another_exception_and_a_second_encoding():
    with pytest.raises(IndexError):
        check(Target(lambda data: data[9], [b"x"]), b"x")
    with pytest.raises(AssertionError, match="two encodings"):
        check(Target(bytes.lower, [b"x"], (CodecError,), lambda value: value), b"X")
