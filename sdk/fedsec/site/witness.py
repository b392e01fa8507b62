"""A site as a witness of the run's log: it cosigns one history only, and none that contradicts its own record.

Every site gets every leaf, so it computes the root itself and needs no proof; what two sites cosigned is the same log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedsec.site.store import SiteStore
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.record.checkpoint import Checkpoint, Log
from fedsec_secure.record.entries import AggregateEntry, Entry, SurvivorsEntry, decode_entry
from fedsec_secure.record.fork import Witness
from fedsec_secure.record.merkle import leaf_hash
from fedsec_secure.record.tree import MerkleTree


def cosign_log(
    store: SiteStore,
    run: str,
    log: Log,
    name: str,
    key: SigningKey,
    note: bytes,
    leaves: Sequence[bytes],
    site_keys: Mapping[SiteId, str],
    now: int,
) -> tuple[Checkpoint, bytes]:
    """Check the log of ``run`` against what this site saw; the checkpoint to remember, and the cosignature's line.

    ``site_keys``: site name -> identity key, hex. Nothing is stored here.
    """
    last = store.witnessed(run)
    witness = Witness(log, name, None if last is None else Checkpoint.parse(last))
    tree = MerkleTree(leaf_hash(leaf) for leaf in leaves)
    old = 0 if witness.last is None else min(witness.last.head.size, tree.size)
    seen, line = witness.cosign(note, tree.consistency(old), key, now)
    assert seen.last is not None
    # Check 71 (log fork): the leaves are those of the checkpoint.
    if tree.head() != seen.last.head:
        raise PeerViolationError(f"the checkpoint is not over the {tree.size} entries that came with it")
    _check_entries([decode_entry(leaf) for leaf in leaves], run, store, site_keys)
    return seen.last, line


def _check_entries(entries: Sequence[Entry], run: str, store: SiteStore, site_keys: Mapping[SiteId, str]) -> None:
    sums = {e.round: e.adapter_after_sha256 for e in entries if isinstance(e, AggregateEntry) and e.run == run}
    sets = {e.round: e.sites for e in entries if isinstance(e, SurvivorsEntry) and e.run == run}
    for number, result in store.results(run).items():
        # Check 72 (edited log): every sum that this site verified stands there as it was.
        if sums.get(number) != result.hex():
            raise PeerViolationError(f"the log has another adapter after round {number} than this site verified")
    for number, keys in store.confirmed(run).items():
        named = frozenset(site_keys.get(SiteId(site), "") for site in sets.get(number, ()))
        # Check 73 (edited log): so does every survivor set that it signed, once its round is over.
        if number in sums and named != keys:
            raise PeerViolationError(f"the log has other survivors of round {number} than this site confirmed")
