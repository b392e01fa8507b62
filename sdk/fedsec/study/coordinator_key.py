"""The coordinator's signing key, held against the plan."""

from __future__ import annotations

from pathlib import Path

from fedsec.plan.model import Plan
from fedsec.study.folder import RunFolder
from fedsec.wire import core_roster
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey


def coordinator_key(folder: RunFolder) -> SigningKey:
    """The key that the run is signed with; ConfigError where it is not the one that the plan names."""
    return key_of_plan(folder.plan, folder.coordinator.key_path)


def key_of_plan(plan: Plan, path: Path) -> SigningKey:
    """The key at ``path``; ConfigError where it is not that of the plan's coordinator."""
    key = SigningKey.load(path)
    expected = core_roster(plan).coordinator
    if key.public != expected:
        raise ConfigError(
            f"{path} is not the key of the plan's coordinator: expected {expected.fingerprint()}, found "
            f"{key.public.fingerprint()}; give the key that the plan's roster names"
        )
    return key
