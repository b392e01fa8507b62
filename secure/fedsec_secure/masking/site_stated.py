"""Site, stage 1 of 5: an update exists, its statement is out. Entered by `train`; next: `share`."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedsec_secure.codec import Reader, Sign, Writer, seal
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.identity import agreement
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.checks import commit
from fedsec_secure.masking.messages import Statement
from fedsec_secure.secrets import SecretBytes


@dataclass(frozen=True)
class SiteStated:
    """Keys and statement of one attempt. ``context`` is the round's digest."""

    me: SiteId
    context: bytes
    channel_secret: SecretBytes = field(repr=False)
    mask_secret: SecretBytes = field(repr=False)
    nonce: SecretBytes = field(repr=False)
    update_sha256: bytes = field(repr=False)
    """Known from outside, the hash of a low-entropy update could be searched for; only the commitment leaves."""
    statement: bytes = field(repr=False)

    @classmethod
    def begin(
        cls, me: SiteId, context: bytes, update_sha256: bytes, sign: Sign, score: int | None = None
    ) -> SiteStated:
        """Fresh keys from the operating system; the statement packet is the `train` reply.

        ``score``: its level, where the plan weighs by scores.
        """
        channel, mask, nonce = SecretBytes.random(), SecretBytes.random(), SecretBytes.random()
        body = Statement(
            agreement.x25519_public(channel),
            agreement.x25519_public(mask),
            commit(context, me, nonce.reveal(), update_sha256),
            score,
        )
        statement = seal("statement", me, context, body.encode(), sign)
        return cls(me, context, channel, mask, nonce, update_sha256, statement)

    def record(self) -> bytes:
        """What the write-ahead record keeps. Holds secrets: the site's own store, mode 0600."""
        out = Writer().text("site stated v1").text(self.me).fixed(self.context, 32)
        for secret in (self.channel_secret, self.mask_secret, self.nonce):
            out.fixed(secret.reveal(), 32)
        return out.fixed(self.update_sha256, 32).blob(self.statement).done()

    @classmethod
    def restore(cls, data: bytes) -> SiteStated:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site stated v1":
            raise LocalMisuseError("the record is of another stage")
        me, context = SiteId(r.text()), r.fixed(32)
        channel, mask, nonce = (SecretBytes(r.fixed(32)) for _ in range(3))
        state = cls(me, context, channel, mask, nonce, r.fixed(32), r.blob(most=1 << 17))
        r.done()
        return state
