# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The thin glue that every module of this collection shares: build, check libraries, run, exit."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ansible.module_utils.basic import (
    AnsibleModule,
    missing_required_lib,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

# Python library -> the Debian package that carries it. Modules run under the distribution's
# /usr/bin/python3, so a library that is missing is a package that is missing; PyPI's `bcc`, for
# one, is another thing altogether.
DEBIAN_PACKAGES: Mapping[str, str] = {"bcc": "python3-bpfcc", "pyroute2": "python3-pyroute2"}

# Whoever changes this box holds this file; the kernel lets go of it with the process, however that ends.
LOCK = "/run/edgewire.lock"
LOCK_SECONDS = 120.0  # compiling, the longest that is done under it, takes a few

Work = Callable[[Mapping[str, Any], bool], Mapping[str, Any]]


def run_module(
    argument_spec: Mapping[str, Any],
    work: Work,
    *,
    libraries: tuple[str, ...] = (),
    exclusive: bool = False,
    **spec: Any,
) -> None:
    """Build the AnsibleModule, call ``work(params, check_mode)``, and exit with what it returns.

    ``work`` returns the module's whole result (see `steps.result_of`). An EdgewireError becomes
    ``fail_json`` with its text; anything else is a bug and keeps its traceback. ``libraries`` are
    imported before ``work`` runs, so the backends may import them at first use; ``spec`` goes to
    AnsibleModule (``required_if`` and so on). ``exclusive`` is for modules that look and then
    change: outside check mode they take turns on a box, so that of two controllers the second
    looks at what the first has made.
    """
    spec.setdefault("supports_check_mode", True)
    module = AnsibleModule(argument_spec=dict(argument_spec), **spec)
    for library in libraries:
        try:
            import_module(library)
        except ImportError as error:
            package = DEBIAN_PACKAGES.get(library, f"python3-{library}")
            hint = f"On Debian: apt-get install --no-install-recommends {package}"
            module.fail_json(msg=f"{missing_required_lib(library)} {hint} ({error})")
    try:
        if exclusive and not module.check_mode:
            with _turn():
                result = work(module.params, False)
        else:
            result = work(module.params, module.check_mode)
    except EdgewireError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for this box's lock and hold it; EdgewireError if somebody does not let go of it."""
    try:
        handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:  # not root: what comes says so in its own words, and changes nothing
        yield
        return
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(handle):
            if time.monotonic() > deadline:
                raise EdgewireError(
                    f"{LOCK}: another run has been changing this host for {LOCK_SECONDS:.0f} s; nothing was done"
                )
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
