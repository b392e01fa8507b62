"""What groups show each other once their sums are open: `sum` at the members, then `verdict` over all groups.

Members check their own group's sum by its tag, as without groups, and sign it. A site takes another group's sum from
as many of that group's signatures as its survivors had to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsec_secure.codec import DIGEST_BYTES, Buffer, Reader, Verify, Writer, open_packet, sha256
from fedsec_secure.errors import AbortError, CodecError, PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.messages import encode_packets, read_packets
from fedsec_secure.masking.parameters import Group
from fedsec_secure.numeric.score_levels import is_score

MOST_GROUPS = 333
QUARTERS = 4
"""Of a step: steps are sent as whole numbers of them."""
_MOST_WORDS = (1 << 32) - 1


def groups_context(plan: bytes, run: str, round_index: int, roster: bytes, adapter: bytes) -> bytes:
    """What signatures on groups' sums and a round's scores bind: the whole roster, and what the round started from.

    Without attempt and sets, so that other groups can check them; a site signs one sum a round.
    """
    out = Writer().text("fedsec groups v1").fixed(plan, DIGEST_BYTES).text(run).uint(round_index, 4)
    return sha256(out.fixed(roster, DIGEST_BYTES).fixed(adapter, DIGEST_BYTES).done())


@dataclass(frozen=True)
class GroupSum:
    """``sum`` reply: the survivors of the signer's group, sorted, and SHA-256 of the sum's words."""

    survivors: tuple[SiteId, ...]
    words: bytes

    def encode(self) -> bytes:
        """Deterministic."""
        out = Writer().uint(len(self.survivors), 2)
        for site in self.survivors:
            out.text(site)
        return out.fixed(self.words, DIGEST_BYTES).done()

    @classmethod
    def decode(cls, data: Buffer) -> GroupSum:
        """Strict inverse: sorted, no site twice."""
        r = Reader(data, "group sum")
        survivors = tuple(SiteId(r.text(most=64)) for _ in range(r.uint(2, most=1000)))
        words = r.fixed(DIGEST_BYTES)
        r.done()
        if list(survivors) != sorted(set(survivors)):
            raise CodecError("group sum: sites must be sorted and distinct")
        return cls(survivors, words)


@dataclass(frozen=True)
class Scores:
    """What the coordinator says that a round's sums are worth: a level each, and the step in quarters. Signed by it."""

    sums: tuple[bytes, ...]
    """H(GroupSum), group by group."""
    levels: tuple[int, ...]
    quarters: int

    def encode(self) -> bytes:
        """33 bytes a group, and three."""
        out = Writer().uint(self.quarters, 1).uint(len(self.sums), 2)
        for digest, level in zip(self.sums, self.levels, strict=True):
            out.fixed(digest, DIGEST_BYTES).uint(level, 1)
        return out.done()

    @classmethod
    def decode(cls, data: Buffer) -> Scores:
        """Strict inverse."""
        r = Reader(data, "scores")
        quarters, sums, levels = r.uint(1), [], []
        for _ in range(r.uint(2, most=MOST_GROUPS)):
            sums.append(r.fixed(DIGEST_BYTES))
            levels.append(r.uint(1))
        r.done()
        if not all(map(is_score, levels)):
            raise CodecError("scores: expected a level for each group")
        return cls(tuple(sums), tuple(levels), quarters)


@dataclass(frozen=True)
class CombineRequest:
    """``verdict`` where there are groups: the scores, and of each group the signatures on its sum and the sum."""

    scores: bytes
    """The signed packet."""
    signed: Sequence[Mapping[SiteId, bytes]]
    words: Sequence[Buffer]
    """Little-endian, group by group."""

    def parts(self) -> list[Buffer]:
        """Deterministic; the words as they are, for they are as long as an adapter."""
        out: list[Buffer] = [Writer().blob(self.scores).uint(len(self.signed), 2).done()]
        for packets, words in zip(self.signed, self.words, strict=True):
            out += [encode_packets(packets), Writer().uint(memoryview(words).nbytes, 4).done(), words]
        return out

    @classmethod
    def decode(cls, data: Buffer) -> CombineRequest:
        """Strict inverse; the words are views into ``data``."""
        r = Reader(data, "verdict request")
        scores, signed, words = r.blob(most=1 << 16), [], []
        for _ in range(r.uint(2, most=MOST_GROUPS)):
            signed.append(read_packets(r, "verdict request"))
            words.append(r.view(most=_MOST_WORDS))
        r.done()
        return cls(scores, signed, words)


def verify_group_sum(packets: Mapping[SiteId, bytes], words: Buffer, group: Group, context: bytes) -> GroupSum:
    """A group's sum as at least the floor's number of its survivors signed it, all the same."""
    found: set[bytes] = set()
    for site, packet in packets.items():
        # `verifier` refuses whoever is not in the group.
        body = open_packet(packet, kind="sum", sender=site, context=context, verify=group.roster.verifier(site))
        found.add(bytes(body))
    # Check 94 (forged group sum): as many of its members as a sum needs have verified it.
    if len(packets) < group.floor:
        raise AbortError(f"{len(packets)} sites signed the sum of their group; expected {group.floor}")
    # Check 95 (forged group sum): all of them the same.
    if len(found) != 1:
        raise PeerViolationError("members of one group signed different sums")
    said = GroupSum.decode(found.pop())
    # Check 96 (small cohort): over as many sites of the group as may be opened, the signers among them.
    if not set(packets) <= set(said.survivors) <= set(group.roster.sites) or len(said.survivors) < group.floor:
        raise PeerViolationError(
            f"a group's sum is over {len(said.survivors)} sites; expected at least {group.floor}, all of the group"
        )
    # Check 97 (forged group sum): these are the words that they signed.
    if sha256(words) != said.words:
        raise PeerViolationError("the sum of a group is another one than its members verified")
    return said


def open_scores(packet: bytes, sums: Sequence[GroupSum], context: bytes, verify: Verify) -> Scores:
    """The coordinator's own signed statement, about exactly these sums."""
    scores = Scores.decode(open_packet(packet, kind="scores", sender=COORDINATOR, context=context, verify=verify))
    # Check 98 (lopsided weights): what a site keeps as evidence is about the sums that it was shown.
    if scores.sums != tuple(sha256(said.encode()) for said in sums):
        raise PeerViolationError("the scores are about other sums than those that came with them")
    return scores
