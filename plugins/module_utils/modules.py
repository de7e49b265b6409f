# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The thin glue that every module of this collection shares: build, check libraries, run, exit."""

from __future__ import annotations

import errno
import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ansible.module_utils.basic import (
    AnsibleModule,
    missing_required_lib,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.turns import turn

# Python library -> the Debian package that carries it. Modules run under the distribution's
# /usr/bin/python3, so a library that is missing is a package that is missing; PyPI's `bcc`, for
# one, is another thing altogether.
DEBIAN_PACKAGES: Mapping[str, str] = {"bcc": "python3-bpfcc", "pyroute2": "python3-pyroute2"}

# The state of a box, not a bug: no room, no quota, a read-only file system.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

Work = Callable[[Mapping[str, Any], bool], Mapping[str, Any]]


def object_of(params: Mapping[str, Any], option: str) -> dict[str, Any]:
    """What an option of the type ``json`` says, which must be an object.

    A plan of 10,000 services is hundreds of thousands of values, and Ansible looks at each of a dict's several times:
    on the way in, for defaults, and on the way out, where the arguments are part of the result. Text is one value.

    :raises EdgewireError: it is no JSON, or something else than an object.
    """
    try:
        content = json.loads(params[option])
    except ValueError as error:
        raise EdgewireError(f"{option} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise EdgewireError(f"{option} must be a JSON object and is a {type(content).__name__}")
    return content


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for garbage in cycles: a module ends before that would matter.

    To look through the many values of a large plan, again and again as they come to be, took a fifth of the time in
    which 100,000 map entries are written.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@_uncollected()
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
    ``fail_json`` with its text, a disk that takes nothing one that names the file; anything else is a
    bug and keeps its traceback. ``libraries`` are
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
            with turn():
                result = work(module.params, False)
        else:
            result = work(module.params, module.check_mode)
    except EdgewireError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        if error.errno not in _DISK:
            raise
        told = f"{error.filename or 'a file'}: {error.strerror}"
        module.fail_json(msg=f"{told}; what is there stays as it is. Mend that and run again, which does what is left")
    module.exit_json(**result)
