"""A site whose updates leave under masks: `share`, `mask`, `confirm`, `unmask`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedsec.site.agent import SiteAgent, words_of
from fedsec.site.end import Reply
from fedsec.site.record_upload import write_upload
from fedsec.site.store_answers import Place
from fedsec.wire import VerdictRequest, weight_rule
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.masking.checks import check_members
from fedsec_secure.masking.parameters import Cohort, Group, SumParameters
from fedsec_secure.masking.site_confirmed import SiteConfirmed
from fedsec_secure.masking.site_masked import Encrypting, SiteMasked
from fedsec_secure.masking.site_revealed import SiteRevealed
from fedsec_secure.masking.site_shared import SiteShared
from fedsec_secure.masking.site_stated import SiteStated
from fedsec_secure.masking.transitions import MASKED, Table
from fedsec_secure.masking.vector import Decoded


class MaskedAgent(SiteAgent):
    """One site of a plan that aggregates under masks."""

    _table: Table = MASKED

    def _joined(self, floor: int) -> Cohort:
        return Group(self._roster, floor, self._plan.secure.threshold, rule=weight_rule(self._plan))

    def _uploading(self) -> dict[str, Callable[[bytes], Reply]]:
        return {"share": self._share, "mask": self._mask, "confirm": self._confirm, "unmask": self._unmask}

    def _share(self, body: bytes) -> Reply:
        place, record = self._continue("share", body)
        stated = SiteStated.restore(record)
        self._store.answers.claim(place, "share", self._table)
        state, reply = SiteShared.enter(stated, body, self._group(place.run), self._id.key.sign)
        self._store.answers.save(place, "share", stated.context, body, state.record(), reply)
        return reply

    def _mask(self, body: bytes) -> Reply:
        place, record = self._continue("mask", body)
        shared = SiteShared.restore(record)
        self._store.answers.claim(place, "mask", self._table)
        group = self._group(place.run)
        parameters, contribution = self._contribution(place, shared.weights(group))
        path = self._store.upload_path(shared.stated.context)
        sign = self._id.key.sign
        with (
            self._encrypting(place, parameters) as encrypting,
            write_upload(path, "masked", self._id.me, parameters.words) as upload,
        ):
            state, upload.head = SiteMasked.enter(
                shared, body, group, parameters, contribution, sign, upload.write, encrypting=encrypting
            )
        self._store.answers.save(place, "mask", state.bound, body, state.record(), path)
        return path

    @contextmanager
    def _encrypting(self, place: Place, parameters: SumParameters) -> Iterator[Encrypting | None]:
        """What masked words go through on their way out; None where they leave as they are."""
        yield None

    def _confirm(self, body: bytes) -> Reply:
        place, record = self._continue("confirm", body)
        masked = SiteMasked.restore(record)
        self._store.answers.claim(place, "confirm", self._table)
        state, reply = SiteConfirmed.enter(masked, body, self._group(place.run), self._id.key.sign)
        sites = frozenset(self._roster.sites[site].hex for site in state.survivors)
        self._check_change(sites)
        self._store.save_confirmed(place, masked.bound, body, state.record(), reply, sites)
        return reply

    def _unmask(self, body: bytes) -> Reply:
        place, record = self._continue("unmask", body)
        confirmed = SiteConfirmed.restore(record)
        self._store.answers.claim(place, "unmask", self._table)
        state, reply = SiteRevealed.enter(confirmed, body, self._group(place.run), self._id.key.sign)
        bound = confirmed.masked.bound
        self._store.answers.save(place, "unmask", bound, body, state.record(), reply)
        return reply

    def _decoded(
        self, place: Place, record: bytes, request: VerdictRequest, parameters: SumParameters, exchange: str
    ) -> Decoded:
        revealed, group = SiteRevealed.restore(record), self._group(place.run)
        check_members(request.heads, self._id.me, group, f"the {exchange}")
        return revealed.check_sum(request.heads, words_of(request), request.tag, parameters, group)

    def _group(self, run: str) -> Group:
        """Who shares the masks of a run with this site."""
        if not isinstance(self._cohort, Group):
            raise LocalMisuseError("this plan aggregates without masks")
        return self._cohort
