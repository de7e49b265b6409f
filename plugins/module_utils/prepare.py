# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be known of a host before its fleet is planned: packages it lacks, its key, the plan it has."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.plan import applied
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import ensure_key

_INSTALLED = "installed"  # dpkg-query(1), db:Status-Status


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of the packages that are not known to be installed.

    One with a version or a release (``name=1.2``, ``name/stable``) is always among them: whether that is satisfied
    is for apt to say. So are all where there is no dpkg.
    """
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return list(names)
    found = {line.partition(" ")[0] for line in done.stdout.splitlines() if line.split()[1:] == [_INSTALLED]}
    return [name for name in names if name not in found]


def prepare(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the module ``host_prepare`` does and returns.

    Where packages are missing nothing else is done: wg(8), which makes the key, may be one of them.
    """
    path, plan_file = params["path"], params["plan_file"]
    missing = missing_packages(params["packages"]) if params["packages"] else []
    told = {"missing_packages": missing, "plan_sha256": applied.identity(applied.stored(plan_file))}
    if missing:
        return result_of([], path, public_key=None, **told)
    key = ensure_key(path, check_mode)
    return result_of(key.steps, path, public_key=key.public_key, **told)
