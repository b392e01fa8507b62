"""The messages around the masked core: what starts a round, what ends it, and the request for a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fedsec.plan.cost import distributed_step
from fedsec.plan.encryption import WEIGHT_UNITS, most_addends
from fedsec.plan.model import Plan
from fedsec_secure.codec import DIGEST_BYTES, Buffer, Reader, Writer, sha256
from fedsec_secure.errors import CodecError, ConfigError
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.identity.keys import PublicKey
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.masking.messages import encode_packets, read_packets
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.tag import PRIME, TAG_BYTES
from fedsec_secure.numeric.lanes import FixedPoint, Lanes
from fedsec_secure.record.checkpoint import Log
from fedsec_secure.record.entries import MAX_ENTRY_BYTES
from fedsec_secure.record.note import MAX_NOTE_BYTES
from fedsec_secure.weighting.influence import Influence

_MAX_ADAPTER = (1 << 32) - 1
_MAX_LEAVES = 1 << 20
_MAX_BUNDLED = (1 << 32) - 1
MOST_AHEAD = 256
"""Rounds whose keys may be shared at a time."""


def core_roster(plan: Plan) -> Roster:
    """The plan's roster as the core's type: parsed keys, checked to be distinct."""
    sites = {SiteId(name): PublicKey.from_hex(site.key) for name, site in plan.roster.sites.items()}
    return Roster(PublicKey.from_hex(plan.roster.coordinator), sites)


def sum_parameters(plan: Plan, length: int) -> SumParameters:
    """The bounds of this plan's sum over updates of ``length`` coordinates."""
    lanes, sites = Lanes.named(plan.secure.lanes), most_addends(plan, len(plan.roster.sites))
    encryption = STANDARD if is_encrypted(plan) else None
    if plan.dp.mode == "distributed":
        step = distributed_step(plan)
        # The sensitivity was sized for so many coordinates.
        if length != step.dimension:
            raise ConfigError(f"dp.dimension is {step.dimension}; expected the {length} coordinates that are trained")
        fixed = FixedPoint(lanes, sites, step.clip, step.clip_in_steps / step.clip, lanes.largest_sum)
        return SumParameters(fixed, length, 1, False, plan.dp.expected_batch)
    fixed = FixedPoint.choose(lanes, sites, plan.secure.clip)
    hidden = plan.weighting.rule == "size"
    heaviest = plan.weighting.count_max if hidden else 1
    return SumParameters(fixed, length, heaviest, hidden, encryption=encryption)


def is_encrypted(plan: Plan) -> bool:
    """Whether words travel encrypted, so that the sum is opened at the sites."""
    return plan.secure.is_encrypted


def weight_rule(plan: Plan) -> Influence | None:
    """How published scores become weights, where the plan weighs by them."""
    spec = plan.weighting
    if spec.rule != "influence":
        return None
    bins = {SiteId(name): size for name, size in spec.size_bins.items()}
    units = WEIGHT_UNITS if plan.secure.mode == "he" else None
    return Influence(bins, Fraction(str(spec.cap)), Fraction(str(spec.effective_cohort)), units)


@dataclass(frozen=True)
class TrainRequest:
    """`train`: which round this is, the global adapter, and the verdicts that attest it (none before round 1)."""

    run: str
    round: int
    attempt: int
    adapter: bytes
    verdicts: Mapping[SiteId, bytes]

    def encode(self) -> bytes:
        """Deterministic."""
        out = Writer().text(self.run).uint(self.round, 4).uint(self.attempt, 2).blob(self.adapter)
        return out.done() + encode_packets(self.verdicts)

    @classmethod
    def decode(cls, data: Buffer) -> TrainRequest:
        """Strict inverse."""
        r = Reader(data, "train request")
        run, number, attempt = r.text(most=64), r.uint(4), r.uint(2)
        adapter = r.blob(most=_MAX_ADAPTER)
        verdicts = read_packets(r, "train request")
        r.done()
        return cls(run, number, attempt, adapter, verdicts)


@dataclass(frozen=True)
class CatchUp:
    """A round's encrypted sum for a site that was away: how often each upload is in it, its weights, and its frames.

    Nothing in it is believed: what all of them lead to is what enough sites attest, or none of it counts.
    """

    factors: tuple[int, ...]
    """What each ciphertext was multiplied by, in the order of the frames' seeds."""
    weight_max: int
    total_weight: int
    frames: Buffer

    def encode(self) -> bytes:
        """Deterministic."""
        out = Writer().uint(len(self.factors), 4)
        for factor in self.factors:
            out.uint(factor, 2)
        return out.uint(self.weight_max, 4).uint(self.total_weight, 8).blob(self.frames).done()

    @classmethod
    def decode(cls, data: Buffer) -> CatchUp:
        """Strict inverse; the frames are a view into ``data``."""
        r = Reader(data, "missed sum")
        factors = tuple(r.uint(2) for _ in range(r.uint(4, most=STANDARD.capacity)))
        found = cls(factors, r.uint(4), r.uint(8), r.view(most=_MAX_BUNDLED))
        r.done()
        return found


@dataclass(frozen=True)
class EncryptedStart:
    """What a round starts from where the coordinator has it not: its digest, and the sums that the site missed, by
    round.
    """

    digest: bytes
    missed: Mapping[int, CatchUp]

    def encode(self) -> bytes:
        """Deterministic."""
        out = Writer().fixed(self.digest, DIGEST_BYTES).uint(len(self.missed), 2)
        for number in sorted(self.missed):
            out.uint(number, 4).blob(self.missed[number].encode())
        return out.done()

    @classmethod
    def decode(cls, data: Buffer) -> EncryptedStart:
        """Strict inverse."""
        r = Reader(data, "encrypted start")
        digest = r.fixed(DIGEST_BYTES)
        missed: dict[int, CatchUp] = {}
        for _ in range(r.uint(2)):
            number = r.uint(4)
            if missed and number <= max(missed):
                raise CodecError("encrypted start: expected rounds in order, each once")
            missed[number] = CatchUp.decode(r.view(most=_MAX_BUNDLED))
        r.done()
        return cls(digest, missed)


def shares_ahead(plan: Plan) -> bool:
    """Whether keys of several rounds are shared at a time."""
    return plan.dp.mode == "distributed" and plan.dp.keys_ahead > 1


@dataclass(frozen=True)
class KeysRequest:
    """`keys`: statements for ``count`` rounds from ``round`` on, before their adapters are known."""

    run: str
    round: int
    attempt: int
    count: int

    def encode(self) -> bytes:
        """Deterministic."""
        return Writer().text(self.run).uint(self.round, 4).uint(self.attempt, 2).uint(self.count, 2).done()

    @classmethod
    def decode(cls, data: Buffer) -> KeysRequest:
        """Strict inverse; at least one round."""
        r = Reader(data, "keys request")
        out = cls(r.text(most=64), r.uint(4), r.uint(2), r.uint(2, most=MOST_AHEAD))
        r.done()
        if out.count < 1:
            raise CodecError("keys request: expected at least one round, found none")
        return out


def encode_bundle(parts: Sequence[bytes]) -> bytes:
    """Several messages in one, in order."""
    out = Writer().uint(len(parts), 2)
    for part in parts:
        out.blob(part)
    return out.done()


def decode_bundle(data: Buffer, count: int | None = None, most: int = MOST_AHEAD) -> tuple[bytes, ...]:
    """Strict inverse; CodecError for another number than ``count``, or more than ``most``."""
    r = Reader(data, "bundle")
    parts = tuple(bytes(r.blob(most=_MAX_BUNDLED)) for _ in range(r.uint(2, most=most)))
    r.done()
    if count is not None and len(parts) != count:
        raise CodecError(f"bundle: expected {count} messages, found {len(parts)}")
    return parts


@dataclass(frozen=True)
class VerdictRequest:
    """`verdict`: the survivors' signed upload heads, the sum's tag (0 without masks), and the sum as little-endian
    words.
    """

    heads: Mapping[SiteId, bytes]
    tag: int
    words: Buffer

    def parts(self) -> list[Buffer]:
        """Deterministic; the words as they are, for they are as long as an adapter."""
        return [encode_packets(self.heads), Writer().uint(self.tag, TAG_BYTES).done(), self.words]

    @classmethod
    def decode(cls, data: Buffer) -> VerdictRequest:
        """Strict inverse; the words are a view into ``data``."""
        r = Reader(data, "verdict request")
        heads, tag = read_packets(r, "verdict request"), r.uint(TAG_BYTES, most=PRIME - 1)
        return cls(heads, tag, r.rest())


def verdict_context(plan: bytes, run: str, round_index: int, roster: bytes) -> bytes:
    """What a site's verdict binds. Without the attempt and the sets, so that a site that was away can check it."""
    out = Writer().text("fedsec verdict v1").fixed(plan, DIGEST_BYTES).text(run).uint(round_index, 4)
    return sha256(out.fixed(roster, DIGEST_BYTES).done())


def baseline_context(plan: bytes, run: str, roster: bytes) -> bytes:
    """What the request for a single-site baseline, and its reply, bind."""
    return sha256(Writer().text("fedsec baseline v1").fixed(plan, DIGEST_BYTES).text(run).fixed(roster, 32).done())


@dataclass(frozen=True)
class FinalAdapter:
    """`attest`: the run's last adapter and the verdicts that attest it, where the plan plants canaries."""

    adapter: bytes
    verdicts: Mapping[SiteId, bytes]

    def encode(self) -> bytes:
        """Deterministic."""
        return Writer().blob(self.adapter).done() + encode_packets(self.verdicts)

    @classmethod
    def decode(cls, data: Buffer) -> FinalAdapter:
        """Strict inverse."""
        r = Reader(data, "final adapter")
        adapter = r.blob(most=_MAX_ADAPTER)
        verdicts = read_packets(r, "final adapter")
        r.done()
        return cls(adapter, verdicts)


@dataclass(frozen=True)
class WitnessRequest:
    """`witness`: the coordinator's signed checkpoint of the run's log, and every leaf of it, first to last."""

    note: bytes
    leaves: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Deterministic."""
        out = Writer().blob(self.note).uint(len(self.leaves), 4)
        for leaf in self.leaves:
            out.blob(leaf)
        return out.done()

    @classmethod
    def decode(cls, data: Buffer) -> WitnessRequest:
        """Strict inverse; the leaves are not parsed."""
        r = Reader(data, "witness request")
        note = r.blob(most=MAX_NOTE_BYTES)
        leaves = tuple(r.blob(most=MAX_ENTRY_BYTES) for _ in range(r.uint(4, most=_MAX_LEAVES)))
        r.done()
        return cls(note, leaves)


@dataclass(frozen=True)
class WitnessReply:
    """`witness`: the cosignature's line, and the digest of the site's ledger head, which the log will hold."""

    line: bytes
    ledger_head: bytes

    def encode(self) -> bytes:
        """Deterministic."""
        return Writer().blob(self.line).fixed(self.ledger_head, DIGEST_BYTES).done()

    @classmethod
    def decode(cls, data: Buffer) -> WitnessReply:
        """Strict inverse; the line is not parsed."""
        r = Reader(data, "witness reply")
        out = cls(r.blob(most=1 << 10), r.fixed(DIGEST_BYTES))
        r.done()
        return out


def witness_context(plan: bytes, run: str, roster: bytes) -> bytes:
    """What a request to cosign the run's log, and its answer, bind."""
    return sha256(Writer().text("fedsec witness v1").fixed(plan, DIGEST_BYTES).text(run).fixed(roster, 32).done())


def log_of(plan: Plan, run: str) -> Log:
    """The log of a run: its origin names plan and run, its key is the coordinator's."""
    return Log(f"fedsec/{plan.digest().hex()[:32]}/{run}", core_roster(plan).coordinator)


def attest_context(plan: bytes, run: str, roster: bytes) -> bytes:
    """What the request for a site's attestation, and its reply, bind."""
    return sha256(Writer().text("fedsec attest v1").fixed(plan, DIGEST_BYTES).text(run).fixed(roster, 32).done())
