"""What a site takes for another group's sum, and for the coordinator's word about all of them."""

from __future__ import annotations

import pytest

from fedsec_secure.codec import seal, sha256
from fedsec_secure.errors import AbortError, CodecError, FedsecError, PeerViolationError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import COORDINATOR, Roster, SiteId
from fedsec_secure.masking.draw import least_threshold, roster_of_group
from fedsec_secure.masking.group_messages import (
    CombineRequest,
    GroupSum,
    Scores,
    groups_context,
    open_scores,
    verify_group_sum,
)
from fedsec_secure.masking.parameters import Group
from fedsec_secure.numeric.score_levels import NO_SCORE

A, B, C, D, STRANGER = (SiteId(f"site-{c}") for c in "abcde")
KEYS = {site: SigningKey.generate() for site in (A, B, C, D, STRANGER)}
SERVER = SigningKey.generate()
ROSTER = Roster(SERVER.public, {site: key.public for site, key in KEYS.items()})
GROUP = Group(roster_of_group((A, B, C, D), ROSTER), 3, least_threshold(4))
CONTEXT = groups_context(bytes(32), "run-1", 2, ROSTER.digest(), bytes(32))
WORDS = bytes(range(64))
SAID = GroupSum((A, B, C, D), sha256(WORDS))


def signed(*sites: SiteId, said: GroupSum = SAID, context: bytes = CONTEXT) -> dict[SiteId, bytes]:
    return {site: seal("sum", site, context, said.encode(), KEYS[site].sign) for site in sites}


def test_a_sum_that_as_many_members_signed_as_it_needs():
    for signers in ((A, B, C, D), (B, C, D)):
        assert verify_group_sum(signed(*signers), WORDS, GROUP, CONTEXT) == SAID
    without_d = GroupSum((A, B, C), sha256(WORDS))
    assert verify_group_sum(signed(A, B, C, said=without_d), WORDS, GROUP, CONTEXT) == without_d


OTHER_RUN = groups_context(bytes(32), "run-2", 2, ROSTER.digest(), bytes(32))
PAIR, NOT_ALL = GroupSum((A, B), sha256(WORDS)), GroupSum((A, B, C), sha256(WORDS))
WITH_STRANGER = GroupSum((A, B, C, D, STRANGER), sha256(WORDS))
OTHER_WORDS = GroupSum((A, B, C, D), bytes(32))


@pytest.mark.parametrize(
    ("packets", "error", "why"),
    [
        (signed(A, B), AbortError, "2 sites signed the sum of their group; expected 3"),
        ({}, AbortError, "0 sites signed"),
        (signed(A, B, C) | signed(D, said=NOT_ALL), PeerViolationError, "members of one group signed different sums"),
        (signed(A, B, D, said=NOT_ALL), PeerViolationError, "over 3 sites; expected at least 3, all of the group"),
        (
            signed(A, B, C, said=WITH_STRANGER),
            PeerViolationError,
            "over 5 sites; expected at least 3, all of the group",
        ),
        (signed(A, B, C, said=PAIR), PeerViolationError, "over 2 sites; expected at least 3"),
        (signed(A, B, C, said=OTHER_WORDS), PeerViolationError, "another one than its members verified"),
        (signed(A, B, C, STRANGER), PeerViolationError, "found 'site-e'"),
        (signed(A, B, C, context=OTHER_RUN), PeerViolationError, "belongs to another plan, run"),
        (signed(A, B) | {C: signed(D)[D]}, FedsecError, "signature"),
    ],
)
def test_a_sum_that_the_group_did_not_verify(packets, error, why):
    with pytest.raises(error, match=why):
        verify_group_sum(packets, WORDS, GROUP, CONTEXT)


SUMS = (SAID, GroupSum((STRANGER,), bytes(32)))
SCORES = Scores(tuple(sha256(said.encode()) for said in SUMS), (3, NO_SCORE), 4)


def packet(scores: Scores = SCORES, key: SigningKey = SERVER, context: bytes = CONTEXT) -> bytes:
    return seal("scores", COORDINATOR, context, scores.encode(), key.sign)


def test_scores_are_the_coordinators_own_about_these_sums():
    assert open_scores(packet(), SUMS, CONTEXT, SERVER.public.verify) == SCORES


@pytest.mark.parametrize(
    ("data", "error", "why"),
    [
        (packet(Scores(SCORES.sums[::-1], SCORES.levels, 4)), PeerViolationError, "about other sums"),
        (packet(Scores(SCORES.sums[:1], SCORES.levels[:1], 4)), PeerViolationError, "about other sums"),
        (packet(Scores(SCORES.sums, (3, 81), 4)), CodecError, "expected a level for each group"),
        (packet(key=KEYS[A]), VerificationError, "signature"),
        (packet(context=OTHER_RUN), PeerViolationError, "belongs to another plan, run"),
    ],
)
def test_scores_that_are_no_evidence(data, error, why):
    with pytest.raises(error, match=why):
        open_scores(data, SUMS, CONTEXT, SERVER.public.verify)


def test_a_request_comes_apart_as_it_was_put_together():
    request = CombineRequest(packet(), [signed(A, B, C), {}], [WORDS, b""])
    data = b"".join(map(bytes, request.parts()))
    back = CombineRequest.decode(data)
    assert (back.scores, list(back.signed), list(map(bytes, back.words))) == (packet(), request.signed, [WORDS, b""])
    for wrong in (data + b"\0", data[:-1], b""):
        with pytest.raises(CodecError):
            CombineRequest.decode(wrong)


@pytest.mark.parametrize("sites", [(B, A), (A, A)])
def test_survivors_stand_sorted_and_once(sites):
    with pytest.raises(CodecError, match="sorted and distinct"):
        GroupSum.decode(GroupSum(sites, bytes(32)).encode())
