"""The error tree. The type says whose fault it is; messages carry ids, lengths and what to do, never values."""

from __future__ import annotations


class FedsecError(Exception):
    """Base of every error that fedsec raises on purpose."""


class ConfigError(FedsecError):
    """A plan, policy, key, data file or command-line value is wrong. The user can fix it."""


class ProtocolError(FedsecError):
    """A protocol rule was broken."""


class LocalMisuseError(ProtocolError):
    """This side called the protocol out of order or with impossible values."""


class PeerViolationError(ProtocolError):
    """A peer sent something that the protocol forbids."""


class AbortError(FedsecError):
    """This round (attempt) cannot go on, for instance because too few sites are left."""


class ReleaseBlockedError(AbortError):
    """A site withholds what a run has made: asking again does not change it."""


class CodecError(FedsecError):
    """Bytes that do not decode. Decoders raise this and nothing else."""


class VerificationError(FedsecError):
    """A signature, digest or proof does not hold."""


class PrivacyBudgetExceededError(FedsecError):
    """A release would spend more than an officer allows."""


class TransportError(FedsecError):
    """The engine could not deliver."""


class StorageError(FedsecError):
    """This machine's disk is full or fails. What was to be kept first has not left: with room, it is asked again."""
