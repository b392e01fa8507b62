"""A site as a witness of the run's log: it cosigns one history only, and none that contradicts its own records.

Every site gets every leaf, so it computes the root itself and needs no proof; what two sites cosigned is the same log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedsec.site.charges import Charges
from fedsec.site.store import SiteStore
from fedsec_secure.codec import sha256
from fedsec_secure.errors import PeerViolationError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.record.checkpoint import Checkpoint, Log
from fedsec_secure.record.entries import (
    AggregateEntry,
    DrawEntry,
    Entry,
    LedgerHeadEntry,
    ScoresEntry,
    SurvivorsEntry,
    decode_entry,
)
from fedsec_secure.record.fork import Witness
from fedsec_secure.record.merkle import leaf_hash
from fedsec_secure.record.tree import MerkleTree


@dataclass(frozen=True)
class View:
    """What this site knows of a run by itself: its record, its ledger, and the pinned keys."""

    store: SiteStore
    charges: Charges
    run: str
    roster: Roster


def cosign_log(
    view: View, log: Log, me: SiteId, key: SigningKey, now: int, note: bytes, leaves: Sequence[bytes]
) -> tuple[Checkpoint, bytes]:
    """Check a run's log against what this site saw; the checkpoint to remember, and the cosignature's line.

    Nothing is stored here: the caller does, before the line leaves. ``now`` is in seconds since 1970.
    """
    last = view.store.log.witnessed(view.run)
    witness = Witness(log, me, None if last is None else Checkpoint.parse(last))
    tree = MerkleTree(leaf_hash(leaf) for leaf in leaves)
    old = 0 if witness.last is None else min(witness.last.head.size, tree.size)
    seen, line = witness.cosign(note, tree.consistency(old), key, now)
    assert seen.last is not None
    # Check 71 (log fork): the leaves are those of the checkpoint.
    if tree.head() != seen.last.head:
        raise PeerViolationError(f"the checkpoint is not over the {tree.size} entries that came with it")
    entries = [decode_entry(leaf) for leaf in leaves]
    _check_rounds(entries, view)
    _check_ledger(entries, view, me)
    return seen.last, line


def _check_rounds(entries: Sequence[Entry], view: View) -> None:
    sums = {e.round: e.adapter_after_sha256 for e in entries if isinstance(e, AggregateEntry) and e.run == view.run}
    sets: dict[int, list[tuple[str, ...]]] = {}
    for entry in entries:
        if isinstance(entry, SurvivorsEntry) and entry.run == view.run:
            sets.setdefault(entry.round, []).append(entry.sites)
    _check_draw(entries, view)
    for number, result in view.store.log.results(view.run).items():
        # Check 72 (edited log): every sum that this site verified stands there as it was.
        if sums.get(number) != result.hex():
            raise PeerViolationError(f"the log has another adapter after round {number} than this site verified")
    keys = {site: key.hex for site, key in view.roster.sites.items()}
    drawn = view.store.draws.groups(view.run) or (tuple(keys),)
    groups = [frozenset(keys[site] for site in group) for group in drawn]
    for number, confirmed in view.store.log.confirmed(view.run).items():
        named = [frozenset(keys.get(SiteId(site), "") for site in sites) for sites in sets.get(number, ())]
        # Check 73 (edited log): so does every survivor set that it signed, once its round is over; one set a group.
        if number in sums and not (confirmed in named and _one_each(named, groups)):
            raise PeerViolationError(f"the log has other survivors of round {number} than this site confirmed")


def _one_each(named: Sequence[frozenset[str]], groups: Sequence[frozenset[str]]) -> bool:
    """Whether each group has exactly one of these survivor sets, and there are no others. Without groups: one set."""
    return len(named) == len(groups) and all(sum(sites <= group for sites in named) == 1 for group in groups)


def _check_draw(entries: Sequence[Entry], view: View) -> None:
    """The groups of the run, where this site drew them, and what the coordinator said of their sums."""
    own, said = view.store.draws.groups(view.run), view.store.draws.all_scores(view.run)
    drawn = [e.groups for e in entries if isinstance(e, DrawEntry) and e.run == view.run]
    # Check 105 (edited log): the groups stand there as they were drawn.
    if own is not None and drawn != [own]:
        raise PeerViolationError("the log has other groups than this site drew")
    logged = {e.round: e.scores_sha256 for e in entries if isinstance(e, ScoresEntry) and e.run == view.run}
    for number, packet in said.items():
        # Check 106 (edited log): so does what the coordinator signed about a round's sums.
        if logged.get(number) != sha256(packet).hex():
            raise PeerViolationError(f"the log has other scores of round {number} than this site was shown")


def _check_ledger(entries: Sequence[Entry], view: View, me: SiteId) -> None:
    heads = (e.head_sha256 for e in entries if isinstance(e, LedgerHeadEntry) and e.site == me)
    for head in heads:
        # Check 74 (ledger rollback): the ledger goes through every head of its own that the log holds.
        if not view.charges.passed(bytes.fromhex(head)):
            raise VerificationError(
                "the run's log holds a head of this site's privacy ledger that the ledger does not know: it was rolled "
                "back or replaced, or the coordinator made the head up. Compare with the newest backup before you go on"
            )
