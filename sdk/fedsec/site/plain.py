"""A site of a plan without protection, where plan and policy both say so: its update leaves in the open."""

from __future__ import annotations

from collections.abc import Callable

from fedsec.site.agent import SiteAgent, words_of
from fedsec.site.end import Reply
from fedsec.site.record_upload import write_upload
from fedsec.site.store_answers import Place
from fedsec.wire import VerdictRequest, weight_rule
from fedsec_secure.masking.checks import check_members
from fedsec_secure.masking.parameters import Cohort, SumParameters
from fedsec_secure.masking.site_plain import SitePlain
from fedsec_secure.masking.site_stated import SiteStated
from fedsec_secure.masking.transitions import PLAIN
from fedsec_secure.masking.vector import Decoded


class PlainAgent(SiteAgent):
    """One site of a plan that aggregates in the open."""

    _table = PLAIN

    def _joined(self, floor: int) -> Cohort:
        return Cohort(self._roster, floor, rule=weight_rule(self._plan))

    def _uploading(self) -> dict[str, Callable[[bytes], Reply]]:
        return {"plain": self._plain}

    def _plain(self, body: bytes) -> Reply:
        place, record = self._continue("plain", body)
        state = SitePlain.enter(SiteStated.restore(record), body, self._cohort)
        context, weights = state.stated.context, state.weights(self._cohort)
        self._store.answers.claim(place, "plain", self._table)
        parameters, contribution = self._contribution(place, weights)
        path = self._store.upload_path(context)
        source = contribution.source(parameters.weighted(weights))
        with write_upload(path, "plain", self._id.me, parameters.words) as upload:
            upload.copy_from(source, context, self._id.key.sign)
        self._store.answers.save(place, "plain", context, body, state.record(), path)
        return path

    def _decoded(
        self, place: Place, record: bytes, request: VerdictRequest, parameters: SumParameters, exchange: str
    ) -> Decoded:
        plain = SitePlain.restore(record)
        check_members(request.heads, self._id.me, self._cohort, f"the {exchange}")
        return plain.check_sum(request.heads, words_of(request), request.tag, parameters, self._cohort)
