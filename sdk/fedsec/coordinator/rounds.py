"""The round driver: a generator over exchanges, without clock, network or randomness.

Training comes first, so that whoever drops out in the long part costs nothing. An attempt that falls below the floor
before `confirm` is tried again, with the sites' stored updates and fresh keys; from `confirm` on there is no other
attempt, because a site confirms one survivor set only: sites that do not answer are asked the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import count
from typing import TypeVar

from fedsec.coordinator.attempt import MAX_ATTEMPTS, Attempt, Steps, Uploaded
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.encrypted import EncryptedAttempt, SharedKeyAttempt
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.coordinator.state import Shapes, State
from fedsec.coordinator.unmasked import PlainAttempt
from fedsec.wire import is_encrypted
from fedsec_secure.errors import AbortError
from fedsec_secure.identity.roster import SiteId

T = TypeVar("T")


def one_round(
    driver: Driver,
    index: int,
    adapter: State,
    verdicts: Mapping[SiteId, bytes],
    history: Sequence[frozenset[SiteId]] = (),
    first: Shapes | None = None,
) -> Steps:
    """One round from ``adapter``; AbortError when no attempt gets through. ``history``: survivors of each round.

    ``first``: shapes of what round 0 starts from, where sums are encrypted.
    """

    def begin(attempt: int) -> Generator[Exchange, Outcome, tuple[Attempt, Uploaded]]:
        place = (driver, index, attempt, adapter, verdicts, history)
        this: Attempt
        if is_encrypted(driver.plan):
            kind = EncryptedAttempt if driver.plan.secure.is_masked else SharedKeyAttempt
            this = kind(*place, first or adapter.shapes)
        else:
            this = (Attempt if driver.plan.secure.is_masked else PlainAttempt)(*place)
        return this, (yield from this.uploaded())

    this, ready = yield from tried(driver, index, begin)
    return (yield from this.finish(ready))


def tried(
    driver: Driver, index: int, begin: Callable[[int], Generator[Exchange, Outcome, T]]
) -> Generator[Exchange, Outcome, T]:
    """What ``begin`` comes to in the first attempt that gets so far: whatever precedes `confirm` may be tried again.

    `MAX_ATTEMPTS` times by each process: what the journal knows is not tried now. A run that ended because too many
    sites were away, or had no room on their disks, goes on when it is resumed.
    """
    made = 0
    for attempt in count():
        before = driver.asked() if driver.asked else -1
        try:
            return (yield from begin(attempt))
        except AbortError as e:
            driver.report({"event": "attempt-aborted", "round": index, "attempt": attempt, "reason": str(e)})
            made += driver.asked is None or driver.asked() > before
            if made >= MAX_ATTEMPTS:
                raise AbortError(f"{e}. It was tried {made} times; a resumed run tries again") from e
    raise AssertionError("unreachable")
