"""A fence around an engine's process: of the machine's files it sees its own folder, the software and what TLS needs.

NVFlare runs under the account that also owns the site's key, notes and record. On Linux with Landlock (5.13 or newer,
no privileges needed) this process and all that it starts give up everything else for good: they cannot open those
files, trace the site's process, or signal it (6.12 or newer). Three system calls, since no maintained package for them
is past its alpha releases; see landlock(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from fedsec_secure.errors import ConfigError

VARIABLE: Final = "FEDSEC_FENCE"
"""The environment variable with the folder that is left to write in."""
_CREATE, _ADD, _RESTRICT, _NO_NEW_PRIVILEGES = 444, 445, 446, 38
"""System calls, the same on every architecture since 5.13, and an option of prctl(2)."""
_ABSENT = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})
"""What a kernel without it says, or one that was started without it."""
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _CONTROL = 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1
_LATER_RIGHTS: Final = {2: 1 << 13, 3: _TRUNCATE, 5: _CONTROL}
"""By the version of the interface that brought them."""
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _CONTROL
_SCOPES_SINCE, _SCOPES = 6, 0b11
"""Neither abstract sockets nor processes outside the fence can be reached."""
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/nix/store", "/proc", "/sys/devices/system", "/sys/fs/cgroup")
_SETTINGS = (
    *(
        "mime.types",
        "resolv.conf",
        "hosts",
        "host.conf",
        "nsswitch.conf",
        "gai.conf",
        "localtime",
        "passwd",
        "group",
        "protocols",
    ),
    *("services", "ld.so.cache", "ld.so.conf", "ssl", "pki", "ca-certificates", "crypto-policies"),
)
_DEVICES = ("null", "zero", "urandom", "random")


class _Rules(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("ports", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of Landlock's interface here; 0 where there is none.

    ConfigError where it may be there and a filter of system calls forbids to ask: nobody should take that for a
    machine without it.
    """
    if not sys.platform.startswith("linux"):
        return 0
    found = int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))
    if found < 0 and (code := ctypes.get_errno()) not in _ABSENT:
        raise ConfigError(
            f"the engine's processes cannot be fenced in: a filter of this service forbids Landlock "
            f"({os.strerror(code)}). Allow the system calls landlock_create_ruleset, landlock_add_rule and "
            "landlock_restrict_self, as deploy/fedsec-site.service does"
        )
    return max(0, found)


def fence(folder: Path) -> bool:
    """Leave this thread, and what it starts from here on, ``folder`` to write in and software to read. False where the
    machine has no Landlock; ConfigError where it has, and refuses.
    """
    found = version()
    if not found:
        return False
    rights = _FIRST_RIGHTS | sum(bit for since, bit in _LATER_RIGHTS.items() if since <= found)
    rules = _Rules(rights, 0, _SCOPES if found >= _SCOPES_SINCE else 0)
    size = ctypes.sizeof(_Rules) if found >= _SCOPES_SINCE else 8
    handle = _checked(_libc.syscall(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    try:
        for path in _readable():
            _allow(handle, path, (_EXECUTE | _READ | _LIST) & rights)
        for name in _DEVICES:
            _allow(handle, Path("/dev") / name, (_READ | _WRITE) & rights)
        _allow(handle, folder, rights)
        _checked(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT, handle, ctypes.c_uint32(0)))
    finally:
        os.close(handle)
    return True


def own_settings(folder: Path) -> Mapping[str, str]:
    """The environment of a fenced process: where it keeps what others put into the home and the temporary folder."""
    return {VARIABLE: str(folder), "TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home")}


def _readable() -> Iterable[Path]:
    """The interpreter, the packages and this software, and a few files of the system."""
    import fedsec
    import fedsec_secure

    software = [Path(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    software += [Path(str(m.__file__)).resolve().parents[1] for m in (fedsec, fedsec_secure)]
    return [*software, *map(Path, _SYSTEM), *(Path("/etc") / name for name in _SETTINGS)]


def _allow(handle: int, path: Path, rights: int) -> None:
    """Under a path, where it exists; a file has fewer rights to give than a folder."""
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _Beneath(rights if path.is_dir() else rights & _OF_FILES, parent)
        _checked(_libc.syscall(_ADD, handle, ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0)))
    finally:
        os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise ConfigError(f"the engine's process cannot be fenced in: {os.strerror(code)}")
    return int(result)
