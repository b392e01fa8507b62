"""Site, under a key that all sites share: the update is encrypted and nothing else. Entered by `encrypt`.

Whoever adds the ciphertexts multiplies each by its site's weight. The tag is that of the masked protocol, with its key
drawn from the shared one: the coordinator alone cannot pass off a part of the sum, or other weights, as the sum. It
hides no update from the coordinator together with one site: that one's key opens them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedsec_secure.codec import Buffer, Sign, seal_head
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.messages import set_digest
from fedsec_secure.masking.parameters import Cohort, SumParameters
from fedsec_secure.masking.site_masked import Contribution, Encrypting
from fedsec_secure.masking.site_weighed import SiteWeighed
from fedsec_secure.masking.tag import PRIME, TAG_BYTES, LinearTag, pads, weighted_pads
from fedsec_secure.masking.vector import Decoded, decode_sum, write_masked
from fedsec_secure.numeric.lanes import Words
from fedsec_secure.secrets import SecretBytes, derive


@dataclass(frozen=True)
class SiteEncrypted(SiteWeighed):
    """The statements that the weights on the ciphertexts follow from."""

    exchange: ClassVar[str] = "encrypt"

    def tag_key(self, shared: SecretBytes) -> SecretBytes:
        """K = HKDF(shared key; context, H(U1)): sites that were shown other statements have another one."""
        u1 = set_digest("U1", self.statements)
        return derive(shared, "fedsec v1 encrypted tag key", self.stated.context, u1)

    def upload(
        self,
        parameters: SumParameters,
        contribution: Contribution,
        shared: SecretBytes,
        sign: Sign,
        write: Callable[[Buffer], None],
        encrypting: Encrypting,
    ) -> bytes:
        """Hand the encrypted words and then the tag tau + a, 8 bytes, to ``write``; returns the signed head.

        ``shared``: the key of all sites, from which the tag's is drawn. ``contribution``: not yet weighted, but for a
        hidden count. Memory: O(chunk).
        """
        key, digest = self.tag_key(shared), hashlib.sha256()
        tag = LinearTag(key, parameters.fixed.lanes)

        def sink(part: Buffer) -> None:
            digest.update(part)
            write(part)

        outer = encrypting(sink)
        write_masked(parameters.words, contribution.source(parameters, tag), [], [], outer.write)
        outer.finish()
        me, context = self.stated.me, self.stated.context
        sink(((tag.value + pads(key, [me])) % PRIME).to_bytes(TAG_BYTES, "little"))
        return seal_head("encrypt", me, context, parameters.masked_bytes, digest.digest(), sign)

    def check_sum(
        self,
        heads: Mapping[SiteId, bytes],
        total: Words,
        tag: int,
        parameters: SumParameters,
        cohort: Cohort,
        shared: SecretBytes,
    ) -> Decoded:
        """`verdict`: the sum lies in the possible range, and is that of the sites' uploads by their weights: its tag
        fits. PeerViolationError otherwise.
        """
        weights, key = self.weights_of(heads, cohort), self.tag_key(shared)
        found = LinearTag(key, parameters.fixed.lanes)
        addends, public = sum(weights.values()), parameters.public_weight(weights, heads)
        decoded = decode_sum(parameters, total, addends, public, found)
        # Check 129 (forged sum): the ciphertexts that were added, and by these weights.
        if (found.value + weighted_pads(key, weights)) % PRIME != tag:
            raise PeerViolationError("the sum is not that of the sites' uploads by their weights: its tag does not fit")
        return decoded
