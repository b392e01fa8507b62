"""Whether approvals held to the end of a run, where the sites' clocks do not agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from fedsec.plan.approval import Approval
from fedsec.study.evidence import FiledApproval, _approvals_in_log
from fedsec_secure.errors import VerificationError
from fedsec_secure.record.entries import ApprovalEntry

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SIGNER = ("0" * 64,)


def evidence(ends: dict[str, datetime], cosigned: dict[str, datetime]) -> SimpleNamespace:
    filed, entries = {}, []
    for site, end in ends.items():
        digests = {"plan_sha256": "1" * 64, "policy_sha256": "2" * 64}
        approval = Approval(site=site, expires=end, nonce="3" * 32, **digests)
        filed[site] = FiledApproval(b"", approval, SIGNER)
        entries.append(ApprovalEntry(site=site, officers=SIGNER, **digests))
    times = {site: int(moment.timestamp()) for site, moment in cosigned.items()}
    return SimpleNamespace(
        approvals=filed, book=SimpleNamespace(entries=entries, opened=SimpleNamespace(cosigned=times))
    )


SOON = NOON + HOUR / 2
LATE = NOON + 9 * HOUR


def test_a_site_that_was_lost_is_not_judged_by_one_clock_that_is_ahead():
    ends = {"ash": SOON, "elm": LATE, "fir": LATE, "oak": LATE}
    clocks = {"elm": NOON, "fir": NOON, "oak": NOON + HOUR}
    _approvals_in_log(evidence(ends, clocks))
    with pytest.raises(VerificationError, match="the approval of ash ended 2030-01-01 12:30:00Z"):
        _approvals_in_log(evidence(ends, clocks | {"fir": NOON + HOUR}))


def test_a_site_that_cosigned_is_judged_by_its_own_clock():
    ends = dict.fromkeys(("ash", "elm", "fir"), SOON)
    clocks = dict.fromkeys(ends, NOON - HOUR)
    _approvals_in_log(evidence(ends, clocks))
    with pytest.raises(VerificationError, match=r"the approval of elm ended .* set the clock that is wrong"):
        _approvals_in_log(evidence(ends, clocks | {"elm": NOON + HOUR}))
