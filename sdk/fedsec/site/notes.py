"""What a site agent writes into the site's own log."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from fedsec.plan.approval import signers_of
from fedsec.plan.model import Plan
from fedsec.site.end import Reply, claimed_context
from fedsec.site.identity import SiteIdentity
from fedsec.site.own_log import OwnLog
from fedsec.site.store import SiteStore
from fedsec.site.store_answers import Place
from fedsec.storage import is_storage
from fedsec.wire import attest_context, baseline_context, core_roster, witness_context
from fedsec_secure.codec import head_length, sha256
from fedsec_secure.identity.keys import PublicKey
from fedsec_secure.record.entries import AnsweredEntry, ApprovalEntry, RefusalEntry, printable

_CONTEXTS: Final = {"baseline": baseline_context, "attest": attest_context, "witness": witness_context}
_MOST_HEAD_BYTES: Final = 1 << 10
EXCHANGES: Final = frozenset(
    {"keys", "deal", "step", "train", "share", "mask", "confirm", "unmask", "plain", "encrypt", "verdict", *_CONTEXTS}
    | {"commit", "reveal", "draw", "sum", "key-offer", "key-deal", "key-take"}
)


class Notes:
    """For one agent."""

    def __init__(self, log: OwnLog, identity: SiteIdentity, plan: Plan, store: SiteStore) -> None:
        self._log = log
        self._id = identity
        self._plan = plan
        self._store = store

    def allowed(self, approval: bytes) -> None:
        """The plan and policy under which the site answers from now on."""
        officers = map(PublicKey.from_hex, self._plan.roster.sites[self._id.me].officers)
        self._log.allowed(
            ApprovalEntry(
                plan_sha256=self._plan.digest().hex(),
                policy_sha256=self._id.policy.digest().hex(),
                site=self._id.me,
                officers=signers_of(approval, self._id.me, officers),
            )
        )

    def answered(self, exchange: str, request: bytes, reply: Reply, place: Place | None) -> None:
        """An answer is about to leave. ``place``: None for what belongs to a run and to no round."""
        place = place or self._place_of_run(exchange, request)
        self._log.answered(
            AnsweredEntry(
                at=int(time.time()),
                run=place.run,
                exchange=exchange,
                round=place.round,
                attempt=place.attempt,
                answer_sha256=_digest(reply).hex(),
            )
        )

    def refused(self, exchange: str, why: str) -> None:
        """A request is refused. The name is the sender's own text until it is one that exists.

        On a full disk without a line in the log: nothing leaves, and the reason why goes on to whoever asked.
        """
        known = exchange if exchange in EXCHANGES else "unknown"
        try:
            self._log.refused(RefusalEntry(site=self._id.me, exchange=known, reason=printable(why)))
        except (OSError, sqlite3.Error) as e:
            if not is_storage(e):
                raise

    def _place_of_run(self, exchange: str, request: bytes) -> Place:
        """What belongs to a run and to no round counts as after its last."""
        context, claimed = _CONTEXTS[exchange], claimed_context(request)
        plan, roster = self._plan.digest(), core_roster(self._plan).digest()
        run = self._store.runs.which(plan, lambda run: context(plan, run, roster) == claimed)
        return Place(run, self._plan.rounds, 0)


def _digest(reply: Reply) -> bytes:
    """Of an upload only the signed head is read: it has the hash of the rest."""
    if isinstance(reply, Path):
        with reply.open("rb") as file:
            start = file.read(_MOST_HEAD_BYTES)
        return sha256(start[: head_length(start)])
    return sha256(reply)
