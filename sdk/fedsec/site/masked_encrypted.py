"""A site of a plan with `secure.mode = "he-mask"`: a masked round whose words leave encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedsec.site.encrypted import EncryptedAgent
from fedsec.site.masked import MaskedAgent
from fedsec.site.store_answers import Place
from fedsec.wire import VerdictRequest
from fedsec_secure.masking.checks import check_members
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.site_masked import Encrypting
from fedsec_secure.masking.site_revealed import SiteRevealed
from fedsec_secure.masking.vector import Decoded


class MaskedEncryptedAgent(EncryptedAgent, MaskedAgent):
    """One site of a plan whose masked sums are encrypted."""

    @contextmanager
    def _encrypting(self, place: Place, parameters: SumParameters) -> Iterator[Encrypting | None]:
        with self._workers(place, parameters.words, "encrypt") as workers:
            yield workers.encrypting

    def _decoded(
        self, place: Place, record: bytes, request: VerdictRequest, parameters: SumParameters, exchange: str
    ) -> Decoded:
        revealed, group = SiteRevealed.restore(record), self._group(place.run)
        check_members(request.heads, self._id.me, group, f"the {exchange}")
        with self._last_chance(place.run):
            total = self._opened(place, request.words, parameters, (1,) * len(request.heads))
            return revealed.check_sum(request.heads, total, request.tag, parameters, group)
