# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the age of a peer's last handshake says about its WireGuard session. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# WireGuard renews a session's handshake every 120 s while there is traffic, and gives a session up after 180 s
# (REKEY_AFTER_TIME, REJECT_AFTER_TIME of the WireGuard paper, section 6.1).
REJECT_AFTER_SECONDS = 180
# A handshake is retried every 5 s for 90 s (REKEY_TIMEOUT, REKEY_ATTEMPT_TIME): after a boot or a change, this long
# nothing follows from there being none yet.
GRACE_SECONDS = 90
# Handshakes are told in whole seconds, and the clock may be slewed meanwhile.
_CLOCK_SLACK = 2

Session = Literal["up", "stale", "never", "unknown"]


@dataclass(frozen=True)
class Clocks:
    """Seconds: the time of day, the time since boot, and how long ago the box was given its plan (None: unknown)."""

    now: float
    uptime: float
    plan_age: float | None

    @property
    def in_grace(self) -> bool:
        """Whether boot or plan are so new that sessions may still be on their way."""
        ages = [self.uptime, *([] if self.plan_age is None else [self.plan_age])]
        return min(ages) < GRACE_SECONDS


def read_clocks(plan_file: Path) -> Clocks:
    """The clocks of this box. The plan's file is written only where the plan changes, so its time is the change's."""
    now = time.time()
    try:
        age: float | None = max(0.0, now - plan_file.stat().st_mtime)
    except OSError:
        age = None
    return Clocks(now, time.clock_gettime(time.CLOCK_BOOTTIME), age)


def handshake_age(latest_handshake: int, clocks: Clocks) -> int | None:
    """Seconds since the last handshake; None without one. Below 0 the clock was set back since."""
    if not latest_handshake:
        return None
    age = int(clocks.now - latest_handshake)
    return age if age < -_CLOCK_SLACK else max(age, 0)


def judge(age: int | None, clocks: Clocks) -> Session:
    """``up``: packets get through. ``stale``: the session is over. ``never``: none has begun. ``unknown``: it is too
    soon after a boot or a change to tell, or the clock was set back.
    """
    if age is not None and 0 <= age <= REJECT_AFTER_SECONDS:
        return "up"
    if clocks.in_grace or (age is not None and age < 0):
        return "unknown"
    return "never" if age is None else "stale"
