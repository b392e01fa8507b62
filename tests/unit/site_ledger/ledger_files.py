"""Ledgers to work on, and somebody who edits them."""

import sqlite3

from fedsec.site.ledger import Ledger
from fedsec.site.ledger_file import _SCHEMA
from fedsec_secure.accounting.chain import Head
from fedsec_secure.accounting.rules import Budget
from tests.unit.secure.accounting.accounting_additive import PLAN, AdditiveAccountant, costs

ADD = AdditiveAccountant()
DELTA = 1e-5
OUTPUT = b"o" * 32


def open_ledger(path, population="ward", unit="patient", **options) -> Ledger:
    return Ledger(path, population, unit, now=lambda: 1_800_000_000, **options)


def reserve(ledger, round_index=0, event=None, epsilon=4.0, **changes):
    budgets = () if epsilon is None else (Budget(epsilon, DELTA),)
    fields = {
        "run": "run-1",
        "round_index": round_index,
        "purpose": "update",
        "plan": PLAN,
        "event": costs(1.0) if event is None else event,
        "neighbours": "add-or-remove",
        "budgets": budgets,
        "accountant": ADD,
        "allow_non_private": epsilon is None,
    }
    return ledger.reserve(**(fields | changes))


def fill(path, rounds=3) -> Head:
    """A closed ledger of 1 + 2 * rounds entries; its head."""
    with open_ledger(path) as ledger:
        for round_index in range(rounds):
            ledger.spend(reserve(ledger, round_index, epsilon=100.0).sequence, OUTPUT)
        return ledger.head()


def edit(path, *statements) -> None:
    """What somebody does who knows SQLite: drop the triggers, edit, and put them back."""
    with sqlite3.connect(path) as db:
        for name in _SCHEMA.keys() - {"entries"}:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(*statement)
        for name in _SCHEMA.keys() - {"entries"}:
            db.execute(_SCHEMA[name])
    db.close()


def reserve_many(ledger, rounds, epsilon=100.0) -> None:
    for round_index in rounds:
        reserve(ledger, round_index, epsilon=epsilon)
