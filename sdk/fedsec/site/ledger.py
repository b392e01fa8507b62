"""The privacy ledger of a site: what was ever charged to the patients of a population, kept so that it cannot shrink.

Reserve before anything private is touched, spend before the output leaves, and there is no refund. A site that dies in
between finds its reservation again and is not charged twice.

Three things have to be on record outside this file, since whoever replaces a file replaces all that is in it:

- *The head*, in the run's signed log. ``expected`` names the newest one; a ledger that does not go through it was
  edited, truncated or rolled back, and is not opened.
- *The head, in the site's write-ahead record*, and the record's digest (:class:`Witness`) in the entries here. An older
  copy of the ledger lacks the head that the record holds; an older copy of the record lacks the state that the newest
  entry here pins (:meth:`Ledger.verify_record`), and so does a copy of it that another process works with: that is
  asked again before each entry. So neither goes back alone. The order is: write the record, append here with the
  record's digest, then answer; the head goes into the record with its next write. A process that is killed in between
  leaves each file ahead of the other by at most what the other already contains, and nothing that was not pinned has
  left the site.
- Both files rolled back together agree with each other; only the log that other sites cosigned shows it. A record that
  was lost and begun anew has another id: it releases nothing that was charged for the one before.

A repetition that finds its entry appends nothing, so it pins no witness either; :meth:`Ledger.anchor` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from fedsec.site.ledger_file import Batch, LedgerFile
from fedsec_secure.accounting.accountant import Accountant
from fedsec_secure.accounting.chain import Head, Reservation
from fedsec_secure.accounting.entries import (
    ID_BYTES,
    Anchor,
    Charge,
    Open,
    PopulationId,
    RecordId,
    Reserve,
    Spend,
    Witness,
)
from fedsec_secure.accounting.events import Event, Neighbours, Unit
from fedsec_secure.accounting.rules import Budget, charged, composed_epsilon, may_reserve, may_spend
from fedsec_secure.errors import LocalMisuseError, VerificationError


def _now() -> int:
    return int(time.time())


class Ledger:
    """One account of a ledger file: a population by name, and the unit whose privacy is counted.

    A file holds any number of them in one chain, so that one head vouches for all; every process that releases anything
    about the same patients opens the same file.
    """

    def __init__(
        self,
        path: Path,
        population: str,
        unit: Unit,
        *,
        expected: Head | None = None,
        now: Callable[[], int] = _now,
    ) -> None:
        """Open the file, or make it, and verify the whole chain.

        Args:
            path: the file, in a folder of its owner's alone (0700).
            population: whose data; small letters, digits and hyphens. It gets a random id when it is first charged.
            unit: ``record`` or ``patient``.
            expected: the newest head that is on record elsewhere. Without one, a rollback cannot be seen.
            now: the clock, in seconds since 1970; its readings are shown and nothing depends on them.

        Raises:
            VerificationError: the file is damaged, was edited, or does not go through ``expected``.
            ConfigError: others can read it, or it cannot be opened.
            AbortError: another process kept it locked.
        """
        self.population, self.unit = population, unit
        self._now = now
        self._known: dict[RecordId, Callable[[bytes], bool]] = {}
        self._file = LedgerFile(path, expected)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- charging

    def reserve(
        self,
        *,
        run: str,
        round_index: int,
        purpose: str,
        plan: bytes,
        event: Event,
        neighbours: Neighbours,
        budgets: Sequence[Budget],
        accountant: Accountant,
        allow_non_private: bool = False,
        witness: Witness | None = None,
    ) -> Reservation:
        """Charge ``event``, durably, before anything private is touched for it.

        The same run, round and purpose with the same event again gives the same reservation and charges nothing.

        Args:
            run: the run's id.
            round_index: the round, from 0.
            purpose: what will leave the site, for instance ``update``.
            plan: the plan's digest.
            event: the mechanism; NonPrivateRelease where there is none.
            neighbours: the relation that the mechanism was calibrated for.
            budgets: every one of them holds afterwards. Empty: no differential privacy is promised.
            accountant: composes the events of this account.
            allow_non_private: whether the policy lets a study run without budgets (``dp.mode none``).
            witness: the state of the caller's write-ahead record.

        Raises:
            PrivacyBudgetExceededError: a budget would not hold; nothing was charged.
            LocalMisuseError: the same run, round and purpose was charged for another event, plan or relation.
            ConfigError: the accountant cannot account for the event.
        """
        with self._writing(witness) as batch:
            history = self._file.history
            known = history.population(self.population)
            population = PopulationId(os.urandom(ID_BYTES)) if known is None else known
            charge = Charge(population, self.unit, run, round_index, purpose, plan, neighbours, event)
            before = may_reserve(history, charge, budgets, accountant, allow_non_private=allow_non_private)
            if before is not None:
                return before
            if known is None:
                batch.append(Open(population, self.population))
            sequence = batch.append(Reserve(charge))
        return self._reservation(sequence)

    def spend(self, reservation: int, released: bytes, *, witness: Witness | None = None) -> Reservation:
        """Record, durably, that the output with digest ``released`` leaves now, before it does.

        ``released`` (SHA-256, 32 bytes) is of the private output itself, not of a packet that carries it masked: a
        second attempt sends the same output under other masks. The same digest again changes nothing; LocalMisuseError
        for another, and for a reservation of another account.
        """
        with self._writing(witness) as batch:
            found = self._file.history.reservation(reservation)
            own = self._file.history.population(self.population), self.unit
            if found is None or (found.charge.population, found.charge.unit) != own:
                raise LocalMisuseError(
                    f"expected a reservation of {self.unit}s of {self.population!r}; entry {reservation} is none"
                )
            if may_spend(self._file.history, reservation, released):
                batch.append(Spend(reservation, released))
        return self._reservation(reservation)

    def _reservation(self, sequence: int) -> Reservation:
        found = self._file.history.reservation(sequence)
        assert found is not None  # it was just written, or found
        return found

    def anchor(self, witness: Witness) -> Head:
        """Pin the state of a write-ahead record without charging anything; returns the head that is to go into it."""
        with self._writing(witness) as batch:
            batch.append(Anchor())
        return self._file.history.head

    def pin(self, witness: Witness) -> None:
        """:meth:`anchor` a state of a write-ahead record that is not the newest one pinned here."""
        self._file.catch_up()
        pinned = self._file.history.witness(witness.record)
        if pinned is None or pinned[1] != witness.digest:
            self.anchor(witness)

    # ---- reading

    def head(self) -> Head:
        """The newest entry's number and digest: what the signed log and the write-ahead record keep."""
        self._file.catch_up()
        return self._file.history.head

    def passed(self, digest: bytes) -> bool:
        """Whether a head with this digest is or was the ledger's: one that was signed elsewhere has to be."""
        self._file.catch_up()
        return self._file.history.passed(digest)

    def history(self) -> tuple[Reservation, ...]:
        """Every reservation that counts in this account, in order, spent or not.

        What was made for the other unit is among them where it tells of this one: a release without differential
        privacy always, and in an account of records what protects patients.
        """
        self._file.catch_up()
        return charged(self._file.history, self._file.history.population(self.population), self.unit)

    def others(self) -> tuple[str, ...]:
        """The names of other populations that the file has charges of: nothing of theirs counts in this account."""
        self._file.catch_up()
        return tuple(name for name in self._file.history.populations if name != self.population)

    def spent(self, accountant: Accountant, delta: float) -> float:
        """Epsilon (natural logarithms; math.inf is an answer) at ``delta`` of everything that was ever reserved here.

        An odometer's reading (Rogers et al. 2016): unspent reservations are in it.
        """
        return composed_epsilon(self.history(), (), accountant, delta, self.unit)

    def verify_record(self, record: RecordId, knows: Callable[[bytes], bool]) -> None:
        """VerificationError unless the write-ahead record ``knows`` the newest state of it that an entry here pins.

        ``knows(digest)`` answers whether the record is in that state or went through it. To be asked when both files
        are opened, before anything is answered; asked again, under the write lock, before each entry that pins a state
        of this record.
        """
        self._file.catch_up()
        self._known[record] = knows
        self._require_known(record)

    @contextmanager
    def _writing(self, witness: Witness | None) -> Iterator[Batch]:
        """`LedgerFile.writing`, unless another process, with a copy of the record, has answered in the meantime."""
        with self._file.writing(self._now(), witness) as batch:
            if witness is not None:
                self._require_known(witness.record)
            yield batch

    def _require_known(self, record: RecordId) -> None:
        pinned, knows = self._file.history.witness(record), self._known.get(record)
        if pinned is not None and knows is not None and not knows(pinned[1]):
            raise VerificationError(
                f"privacy ledger: entry {pinned[0]} pins a state of this site's record that the record does not know: "
                "the record was rolled back, truncated or replaced, or another process answers with a copy of it. Do "
                "not use it; restore the newest copy, and start the site once"
            )
