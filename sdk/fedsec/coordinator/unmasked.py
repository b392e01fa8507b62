"""A round without masks: `train`, one upload, `verdict`. The exchange is `plain`, or `encrypt` under a shared key."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from fedsec.coordinator.attempt import Attempt, Summed, Uploaded, open_uploads
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec_secure.codec import seal
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.checks import check_balance, public_weights, verify_statements
from fedsec_secure.masking.coordinator_collect import require, sift, verify_upload
from fedsec_secure.masking.coordinator_unmask import Total
from fedsec_secure.masking.messages import encode_packets, set_digest
from fedsec_secure.masking.vector import sum_words


@dataclass(frozen=True)
class PlainAttempt(Attempt):
    """The baseline without protection: the same integers travel, in the open."""

    def uploaded(self) -> Generator[Exchange, Outcome, Uploaded]:
        """`train`, `plain`."""
        return (yield from sent(self, "plain", 8 * self.driver.parameters(self.adapter.shapes, self.index).words))

    def summed(self, uploaded: Uploaded) -> Generator[Exchange, Outcome, Summed]:
        """Without an exchange."""
        yield from ()
        words = self.driver.parameters(self.adapter.shapes, self.index).words
        with open_uploads(uploaded) as sources:
            total = sum_words(words, [sources[s] for s in uploaded.heads], [], [])
        self.survivors(set_digest("U3", uploaded.heads), uploaded.heads)
        return Summed(uploaded.heads, uploaded.weights, Total(total, 0), self.context, tuple(uploaded.heads))


def sent(this: Attempt, name: str, length: int) -> Generator[Exchange, Outcome, Uploaded]:
    """`train`, then the exchange ``name``, in which each site that made a statement uploads ``length`` bytes."""
    trained = yield from this.train()
    driver, cohort = this.driver, this.driver.cohort()
    packets = trained.small()
    stated, refused = sift(packets, lambda site, packet: verify_statements({site: packet}, this.context, cohort)[site])
    this.note("refused", "train", refused)
    require(len(stated), cohort, "the set of statements")
    weights = public_weights(stated, cohort)
    check_balance(weights, stated, cohort, "U1")
    body = encode_packets({site: packets[site] for site in stated})
    request = seal(f"{name}-request", COORDINATOR, this.context, body, driver.sign)
    outcome = yield from this.ask(name, dict.fromkeys(stated, request))
    facts, broken = this.measured(outcome)

    def accept(site: SiteId, head: bytes) -> bytes:
        verify_upload(site, facts[site], name, this.context, cohort, length)
        return head

    heads, refused = sift({s: f.head for s, f in facts.items()}, accept)
    this.note("refused", name, refused | broken)
    require(len(heads), cohort, "the set of uploads")
    check_balance(weights, heads, cohort, "the set of uploads")
    return Uploaded(heads, outcome.uploads(), weights, None)
