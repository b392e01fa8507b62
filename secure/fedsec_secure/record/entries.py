"""What is written into the log: one frozen model for each kind of entry, read from its one canonical form only.

A leaf is ``fedsec log entry v1`` and a zero byte, then the entry as canonical JSON (RFC 8785). Digests are SHA-256 in
lower-case hex. Entries name parties, sets and digests; a score, a count or a text of a note has no field here.
Entries are the log's claims. What proves them are the signed messages with these digests.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from fedsec_secure.errors import CodecError
from fedsec_secure.record.merkle import leaf_hash

LEAF_DOMAIN: Final = b"fedsec log entry v1\x00"
MAX_ENTRY_BYTES: Final = 1 << 16
"""Of a leaf. Room for the names of 1000 sites."""


def _sorted_set(members: tuple[str, ...]) -> tuple[str, ...]:
    if list(members) != sorted(set(members)):
        raise ValueError("a set stands sorted, each member once: it has one text")
    return members


Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PublicKeyHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
"""A name from the plan or the protocol: a strategy, an exchange."""
Sites = Annotated[tuple[SiteName, ...], Field(min_length=1, max_length=1000), AfterValidator(_sorted_set)]
Round = Annotated[int, Field(ge=0, lt=1 << 32)]
"""From 0, as messages count."""
_LONGEST_REASON: Final = 500
Reason = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_REASON, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$")]
"""One line of text without characters that are not seen: nothing in it can hide or reorder a page."""


class _Entry(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    def leaf_data(self) -> bytes:
        """Domain and canonical JSON: what stands in the log."""
        return LEAF_DOMAIN + rfc8785.dumps(self.model_dump(mode="json"))

    def leaf_hash(self) -> bytes:
        """The 32-byte hash of the leaf, for the tree."""
        return leaf_hash(self.leaf_data())


class ApprovalEntry(_Entry):
    """An officer approved a plan for a site, under a policy."""

    kind: Literal["approval"] = "approval"
    plan_sha256: Sha256Hex
    policy_sha256: Sha256Hex
    site: SiteName
    officers: Annotated[tuple[PublicKeyHex, ...], Field(min_length=1, max_length=64), AfterValidator(_sorted_set)]
    """Public keys of those who signed."""


class RoundStartedEntry(_Entry):
    """An attempt at a round began."""

    kind: Literal["round-started"] = "round-started"
    run: RunName
    round: Round
    attempt: Annotated[int, Field(ge=0, lt=1 << 16)]
    context_sha256: Sha256Hex
    """The context of every message of this attempt."""


class SurvivorsEntry(_Entry):
    """The survivors of a round, U3, as its sites confirmed them; of each group where there are groups."""

    kind: Literal["survivors"] = "survivors"
    run: RunName
    round: Round
    sites: Sites
    uploads_sha256: Sha256Hex
    """Over the signed heads of their masked uploads."""


class DrawEntry(_Entry):
    """The groups of a run, as all its sites drew them together."""

    kind: Literal["draw"] = "draw"
    run: RunName
    groups: Annotated[tuple[Sites, ...], Field(min_length=2, max_length=333)]
    commitments_sha256: Sha256Hex
    """Over all sites' signed commitments."""
    reveals_sha256: Sha256Hex
    """Over what they opened, signed."""


class ScoresEntry(_Entry):
    """What the coordinator said that the sums of a round's groups are worth: with it each site computed the weights."""

    kind: Literal["scores"] = "scores"
    run: RunName
    round: Round
    scores_sha256: Sha256Hex
    """Over its signed statement, which every site of the round keeps: each group's sum and loss, and the step."""


class AggregateEntry(_Entry):
    """A verified sum, and what it made of the global adapter. Of groups: all their sums."""

    kind: Literal["aggregate"] = "aggregate"
    run: RunName
    round: Round
    sum_sha256: Sha256Hex
    adapter_before_sha256: Sha256Hex
    adapter_after_sha256: Sha256Hex


class LedgerHeadEntry(_Entry):
    """The head of a site's privacy ledger: a ledger that does not go on from it is an older copy."""

    kind: Literal["ledger-head"] = "ledger-head"
    site: SiteName
    head_sha256: Sha256Hex


class AttestationEntry(_Entry):
    """What a site signed about its part in a run, and which list of excluded patients it kept to."""

    kind: Literal["attestation"] = "attestation"
    run: RunName
    site: SiteName
    attestation_sha256: Sha256Hex
    """Over the signed attestation, as a file."""
    exclusions_hmac_sha256: Sha256Hex | None
    """Of the list, under a key that only the site has; None without a list."""


class AnsweredEntry(_Entry):
    """A site answered: something left it. In the site's own log."""

    kind: Literal["answered"] = "answered"
    at: Annotated[int, Field(ge=0, lt=1 << 53)]
    """Seconds since 1970 by the site's clock."""
    run: RunName
    exchange: Word
    round: Round
    attempt: Annotated[int, Field(ge=0, lt=1 << 16)]
    answer_sha256: Sha256Hex
    """Of the answer, or of the signed head of an upload."""


class ModelEntry(_Entry):
    """A finished adapter: from which base, by which run, under which plan, by which sites."""

    kind: Literal["model"] = "model"
    adapter_sha256: Sha256Hex
    base_weights_sha256: Sha256Hex
    run: RunName
    plan_sha256: Sha256Hex
    sites: Sites
    strategy: Word
    rank: Annotated[int, Field(ge=1, lt=1 << 16)]


class RefusalEntry(_Entry):
    """A site did not take part, and said why."""

    kind: Literal["refusal"] = "refusal"
    site: SiteName
    exchange: Word
    reason: Reason


class RunFinishedEntry(_Entry):
    """A run ended with this adapter after so many rounds."""

    kind: Literal["run-finished"] = "run-finished"
    run: RunName
    rounds: Round
    adapter_sha256: Sha256Hex


Entry = (
    ApprovalEntry
    | RoundStartedEntry
    | SurvivorsEntry
    | DrawEntry
    | ScoresEntry
    | AggregateEntry
    | LedgerHeadEntry
    | AttestationEntry
    | AnsweredEntry
    | ModelEntry
    | RefusalEntry
    | RunFinishedEntry
)
_ENTRY: TypeAdapter[Entry] = TypeAdapter(
    Annotated[Entry, Field(discriminator="kind")], config=ConfigDict(hide_input_in_errors=True)
)


def printable(reason: str) -> str:
    """A reason as `RefusalEntry` takes it: one line of at most 500 characters, what is not seen replaced by a blank."""
    seen = "".join(c if c.isprintable() else " " for c in reason)[:_LONGEST_REASON].strip()
    return seen or "no reason given"


def decode_entry(data: bytes) -> Entry:
    """The entry of a leaf. CodecError for anything but the domain and the canonical JSON of one entry."""
    if len(data) > MAX_ENTRY_BYTES:
        raise CodecError(f"a log entry has at most {MAX_ENTRY_BYTES} bytes; found {len(data)}")
    if not data.startswith(LEAF_DOMAIN):
        raise CodecError("not a log entry: a leaf begins with 'fedsec log entry v1' and a zero byte")
    try:
        entry = _ENTRY.validate_json(data[len(LEAF_DOMAIN) :])
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False, include_context=False)[0]
        # The name of an unknown field is the sender's own text, and has no place in an error.
        known = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
        where = ".".join(str(part) for part in known) or "(top)"
        raise CodecError(f"not a log entry: field {where}: {first['type']}") from None
    # Covers duplicate keys, spaces, escapes, other forms of a number and left-out fields at once.
    if entry.leaf_data() != data:
        raise CodecError("not a log entry in canonical form (RFC 8785)")
    return entry
