"""Where a global adapter comes from: a site trains on none that is only the coordinator's word.

Against adapters that are made to leak (Boenisch et al. 2023) or that differ from site to site (Pasquini et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsec.training.adapter import AdapterState
from fedsec_secure.codec import open_packet
from fedsec_secure.errors import AbortError, PeerViolationError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.parameters import Cohort


def check_first(adapter: AdapterState, planned: AdapterState) -> None:
    """The adapter of round 0 is the one that the plan fixes, which every site computes itself."""
    # Check 59 (trap adapter): round 0 starts from the adapter that the plan fixes.
    if adapter != planned:
        raise PeerViolationError("round 0 does not start from the adapter that the plan fixes")


def check_next(
    adapter: bytes, own: bytes | None, verdicts: Mapping[SiteId, bytes], context: bytes, cohort: Cohort
) -> None:
    """The adapter of a later round, by its digest, is the one that this site verified itself at the end of the last.

    ``own`` is that adapter's digest; None where the site was away, and then the adapter must be the one that at least
    the floor's number of sites verified: ``verdicts`` are their packets, bound to ``context``.
    """
    if own is not None:
        # Check 60 (trap adapter): later rounds start from the sum that this site verified.
        if own != adapter:
            raise PeerViolationError("the round does not start from the sum that this site verified")
        return
    for site, packet in verdicts.items():
        verify = cohort.roster.verifier(site)
        signed = open_packet(packet, kind="verdict", sender=site, context=context, verify=verify)
        # Check 61 (trap adapter): or, where it was away, from the one that others verified.
        if bytes(signed) != adapter:
            raise PeerViolationError(f"{site} attests another adapter than the one of this round")
    # Check 62 (trap adapter): as many of them as a sum needs.
    if len(verdicts) < cohort.floor:
        raise AbortError(
            f"this site was away in the last round, and {len(verdicts)} of the {cohort.floor} verdicts that it needs "
            "came with the adapter"
        )
