# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is missing where the running kernel may not be read: a file, a capability, or lockdown being off."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

STATUS = "/proc/self/status"
LOCKDOWN = "/sys/kernel/security/lockdown"
CAP_SYS_RAWIO = 17


def why_not(error: OSError) -> str:
    """
    Return in words why /proc/kcore could not be opened; nothing if there is nothing to say.

    Its mode is 0400. open_kcore() of fs/proc/kcore.c asks for CAP_SYS_RAWIO and then for LOCKDOWN_KCORE, which
    lockdown=confidentiality denies, and lockdown=integrity does not (02e935bf5b34 ("lockdown: Lock down /proc/kcore")
    (in v5.4)). Each answers EPERM.
    """
    if error.errno == errno.ENOENT:
        return "/proc is not mounted here, or this kernel is built without CONFIG_PROC_KCORE"
    if error.errno == errno.EACCES:
        return f"only root may open it{_not_root()}, or who has CAP_DAC_READ_SEARCH; CAP_SYS_RAWIO is needed as well"
    if error.errno != errno.EPERM:
        return ""
    if _has_rawio() is False:
        return "CAP_SYS_RAWIO is missing; in a container, it has to be given to it, and to be root is not enough"
    mode = _lockdown()
    if mode == "confidentiality":
        return f"the kernel is locked down ({LOCKDOWN}: confidentiality), and nobody may"
    capability = "" if _has_rawio() else "CAP_SYS_RAWIO is missing, or "
    return f"{capability}the kernel is locked down for confidentiality, or a security module forbids it"


def _not_root() -> str:
    return "" if os.geteuid() == 0 else f", and this is user {os.geteuid()}"


def _has_rawio() -> bool | None:
    """Return whether this process has CAP_SYS_RAWIO; None if that is not to be found out."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", _text(STATUS), re.MULTILINE)
    return None if match is None else bool(int(match[1], 16) >> CAP_SYS_RAWIO & 1)


def _lockdown() -> str:
    """Return the mode of lockdown; empty if that is not to be found out: securityfs is often not mounted."""
    match = re.search(r"\[(\w+)\]", _text(LOCKDOWN))
    return "" if match is None else match[1]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
