"""A site of a plan with `secure.mode = "he"`: updates are encrypted under a key of all sites, and nothing else.

The coordinator multiplies each ciphertext by its site's weight and adds them. What comes back is opened here once its
survivors are known to be far from earlier ones, and counts if its tag fits.
"""

from __future__ import annotations

from collections.abc import Callable

from fedsec.site.encrypted import EncryptedAgent
from fedsec.site.end import Reply, claimed_context
from fedsec.site.record_upload import write_upload
from fedsec.site.store_answers import Place
from fedsec.wire import VerdictRequest, weight_rule
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.checks import open_request
from fedsec_secure.masking.parameters import Cohort, SumParameters
from fedsec_secure.masking.site_encrypted import SiteEncrypted
from fedsec_secure.masking.site_masked import NoisyContribution
from fedsec_secure.masking.site_stated import SiteStated
from fedsec_secure.masking.transitions import SEALED
from fedsec_secure.masking.vector import Decoded


class SharedKeyAgent(EncryptedAgent):
    """One site of a plan that aggregates under a shared key."""

    _table = SEALED

    def _joined(self, floor: int) -> Cohort:
        return Cohort(self._roster, floor, rule=weight_rule(self._plan))

    def _uploading(self) -> dict[str, Callable[[bytes], Reply]]:
        return {"encrypt": self._encrypt}

    def _encrypt(self, body: bytes) -> Reply:
        place, record = self._continue("encrypt", body)
        state = SiteEncrypted.enter(SiteStated.restore(record), body, self._cohort)
        context = state.stated.context
        self._store.answers.claim(place, "encrypt", self._table)
        # As it is: its weight is the coordinator's to apply, but for a count that nobody else is to know.
        parameters, contribution = self._contribution(place, dict.fromkeys(state.statements, 1))
        if isinstance(contribution, NoisyContribution):
            raise LocalMisuseError("integers with a share of noise leave under masks only")
        shared, path = self._store.keys.key(place.run), self._store.upload_path(context)
        with (
            self._workers(place, parameters.words, "encrypt") as workers,
            write_upload(path, "encrypt", self._id.me, parameters.words) as upload,
        ):
            key, out = self._id.key.sign, upload.write
            upload.head = state.upload(parameters, contribution, shared, key, out, workers.encrypting)
        self._store.answers.save(place, "encrypt", context, body, state.record(), path)
        return path

    def _decoded(
        self, place: Place, record: bytes, request: VerdictRequest, parameters: SumParameters, exchange: str
    ) -> Decoded:
        state = SiteEncrypted.restore(record)
        weights = state.weights_of(request.heads, self._cohort)
        self._check_change(self._keys_of(request))
        with self._last_chance(place.run):
            total = self._opened(place, request.words, parameters, tuple(weights.values()))
            shared = self._store.keys.key(place.run)
            return state.check_sum(request.heads, total, request.tag, parameters, self._cohort, shared)

    def _verdict(self, body: bytes) -> Reply:
        place, new, reply = self._judge(body)
        self._store.answers.claim(place, "verdict", self._table)
        request = VerdictRequest.decode(open_request("verdict", body, claimed_context(body), self._cohort))
        verdict = claimed_context(body), body, reply
        self._store.pass_on(place, verdict, new.digest(), new.to_bytes(), self._keys_of(request))
        return reply

    def _keys_of(self, request: VerdictRequest) -> frozenset[str]:
        """Who is in a sum, by key."""
        return frozenset(self._roster.sites[SiteId(site)].hex for site in request.heads)
