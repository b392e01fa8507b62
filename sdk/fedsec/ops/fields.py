"""What of an event may stand in a log line: an allow-list of fields, each with a rule for its value.

Logs leave the machine: a hospital collects them in one place, and more people read them than may see a run folder. So
nothing passes that is not known to be harmless. Counts, losses, scores, weights, bytes and whatever a later event
brings are left out; text that another party wrote is left out too, and only the class of its error stays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from fedsec_secure import errors
from fedsec_secure.record.entries import printable

OTHER = "other"
_LONGEST_TEXT = 240
_MOST_NAMES = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"""(?<!\w)(?:[A-Za-z]:)?[~.]*[\\/][^\s'":;,()]+|[^\s'":;,()]+[\\/][^\s'":;,()]*\.\w+""")
_LONG = re.compile(r"[A-Za-z0-9+/=_-]{33,}")
_CLASSES = frozenset(
    name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, errors.FedsecError)
)


def public_text(text: str) -> str:
    """One line of at most 240 characters, without paths and without runs of 33 or more characters that could be a key.

    For text that this process wrote itself: it is a second fence, and no filter of what a stranger says.
    """
    short = _LONG.sub("[left out]", _PATH.sub("[path]", printable(text)))
    return short[:_LONGEST_TEXT]


def error_class(reason: str) -> str:
    """The class at the front of "AbortError: too few sites", one of ours; ``other`` for all else."""
    name = reason.partition(":")[0].strip()
    return name if name in _CLASSES else OTHER


def name(value: object) -> str | None:
    """A site, exchange or kind of event: at most 63 of [A-Za-z0-9._-]; None for anything else."""
    return str(value) if isinstance(value, str) and _NAME.fullmatch(value) else None


def whole(value: object) -> int | None:
    """A count of rounds, attempts or bytes; None for anything else."""
    return value if type(value) is int and abs(value) < 1 << 63 else None


def seconds(value: object) -> float | None:
    """A finite time, to the millisecond; None for anything else."""
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return round(float(value), 3) if real else None  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    return public_text(value) if isinstance(value, str) else None


def _digest(value: object) -> str | None:
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else None


def _names(value: object) -> list[str] | None:
    if not isinstance(value, list | tuple | set | frozenset):
        return None
    return sorted(found for one in list(value)[:_MOST_NAMES] if (found := name(one)) is not None)


def by_site(value: object, rule: Callable[[object], Any]) -> dict[str, Any]:
    """A mapping from sites, both sides checked; what does not fit is left out."""
    if not isinstance(value, Mapping):
        return {}
    pairs = ((name(site), rule(one)) for site, one in list(value.items())[:_MOST_NAMES])
    return {site: one for site, one in pairs if site is not None and one is not None}


def sizes(value: object) -> dict[str, int] | int | None:
    """Bytes by site, or of the one site whose process this is."""
    return by_site(value, whole) if isinstance(value, Mapping) else whole(value)


def classes(value: object) -> dict[str, str]:
    """Why each site is lost, as the class of error: the words are a site's own and stay in the run folder."""
    return by_site(value, lambda why: error_class(why) if isinstance(why, str) else OTHER)


_RULES: Mapping[str, Callable[[object], Any]] = {
    "adapter": _digest,
    "attempt": whole,
    "bytes_down": sizes,
    "bytes_up": sizes,
    "error": name,
    "exchange": name,
    "exit_code": whole,
    "lost": classes,
    "reason": _text,
    "restarts": whole,
    "round": whole,
    "rounds": whole,
    "seconds": seconds,
    "site": name,
    "sites": classes,
    "state": name,
    "survivors": _names,
    "what": _text,
}


def public_event(event: Mapping[str, object]) -> dict[str, Any]:
    """The event's name and its fields on the list, as JSON knows them. Never raises; ``left_out`` counts the rest."""
    shown: dict[str, Any] = {"event": name(event.get("event")) or OTHER}
    rest = {key: value for key, value in event.items() if key != "event"}
    for key, value in rest.items():
        rule = _RULES.get(key)
        if rule is not None and (kept := rule(value)) is not None:
            shown[key] = kept
    if missing := len(rest) - (len(shown) - 1):
        shown["left_out"] = missing
    return shown
