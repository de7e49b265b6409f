# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action behind ``edgewire.fleet.fleet_plan``: reads the inventory once, plans, writes files on
the controller.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError  # type: ignore[import-untyped,unused-ignore]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped,unused-ignore]
from ansible.template import Templar  # type: ignore[import-untyped,unused-ignore]
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.plan import drains
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.inventory import EDGES, WORKERS
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.session import (
    Outcome,
    plan_and_store,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.variables import (
    FLEET_VARIABLES,
    HOST_VARIABLES,
    PRESHARED_SECRET,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import SHORTEST_SECRET

# What the role registers on each host from ``wireguard_key``.
KEY_RESULT = "edgewire_key"
_OWN_VARIABLES = (*HOST_VARIABLES, "ansible_host")
_KNOWN = frozenset({*HOST_VARIABLES, *FLEET_VARIABLES})
_ARGUMENTS = {
    "plan_dir": {"type": "path"},
    "registry": {"type": "path"},
    "public_keys": {"type": "dict", "default": {}},
    "drain": {"type": "list", "elements": "str", "default": []},
    "undrain": {"type": "list", "elements": "str", "default": []},
    "drain_force": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    """Plans the whole fleet, whatever the play's hosts and ``--limit`` are; runs on the controller
    only.
    """

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ansible's entry; returns what RETURN in the module's documentation lists."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _, options = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        result["changed"] = False
        problems = Problems()
        try:
            plan_dir, registry = _places(options, variables.get("inventory_dir"))
            inventory, keys = self._read(variables["groups"], variables["hostvars"], problems)
            outcome = plan_and_store(
                inventory,
                {**keys, **options["public_keys"]},
                registry=registry,
                request=drains.Request(
                    tuple(options["drain"]), tuple(options["undrain"]), force=options["drain_force"]
                ),
                plan_dir=plan_dir,
                check=bool(self._task.check_mode),
                problems=problems,
            )
            if options["plan_dir"] is None:
                # Derived from the inventory, so nothing to commit beside it.
                write_if_changed(plan_dir.parent / ".gitignore", b"*\n")
        except EdgewireError as error:
            return {**result, "failed": True, "msg": str(error), "problems": problems.lines()}
        except OSError as error:
            message = f"cannot write the plan or the key registry on the controller: {error}"
            return {**result, "failed": True, "msg": message, "problems": [message]}
        return {**result, **_summary(inventory, outcome, registry)}

    def _read(
        self, groups: Mapping[str, list[str]], hostvars: Any, problems: Problems
    ) -> tuple[dict[str, Any], dict[str, object]]:
        """The planner's inventory, and host → key of the hosts whose key this run has read: one
        pass over hostvars.

        Fleet-wide variables are templated once, for the first host that has them; only where
        another host's raw value differs is that one looked at, too.
        """
        members = {group: [str(name) for name in groups.get(group, [])] for group in (EDGES, WORKERS)}
        names = {str(name) for name in groups.get("edgewire", [])}
        names.update(*members.values())
        shared: dict[str, Any] = {}
        shared_raw: dict[str, Any] = {}
        hosts: dict[str, dict[str, Any]] = {}
        keys: dict[str, object] = {}
        lacking: dict[str, list[str]] = {}
        secrets: dict[str, Any] = {}
        for name in sorted(names):
            raw = hostvars.raw_get(name)
            templar = Templar(loader=self._loader, variables=raw)
            own = {key: _template(templar, raw[key], name, key, problems) for key in _OWN_VARIABLES if key in raw}
            for key in FLEET_VARIABLES:
                if key not in raw:
                    lacking.setdefault(key, []).append(name)
                elif key not in shared_raw:
                    shared_raw[key] = raw[key]
                    shared[key] = _template(templar, raw[key], name, key, problems)
                elif raw[key] is not shared_raw[key] and raw[key] != shared_raw[key]:
                    own[key] = _template(templar, raw[key], name, key, problems)
            if raw.get(PRESHARED_SECRET):
                secrets[name] = raw[PRESHARED_SECRET]
            # Names only: the planner says which of them look misspelt.
            own.update({k: None for k in raw if k.startswith("edgewire_") and k not in _KNOWN})
            hosts[name] = own
            answer = raw.get(KEY_RESULT)
            if isinstance(answer, Mapping) and answer.get("public_key") is not None:
                keys[name] = answer["public_key"]
        for key in shared:
            for name in lacking.get(key, []):
                problems.add(name, key, "set for other hosts only; it must be the same everywhere")
        preshared = self._check_secrets(sorted(names), secrets, hostvars, problems)
        return {"hosts": hosts, "groups": members, "vars": shared, "preshared": preshared}, keys

    def _check_secrets(self, names: list[str], secrets: Mapping[str, Any], hostvars: Any, problems: Problems) -> bool:
        """Whether the fleet has a secret for preshared keys. It is not quoted, and leaves this method with nothing."""
        if not secrets:
            return False
        first = next(iter(secrets))
        for name in names:
            if name not in secrets:
                problems.add(name, PRESHARED_SECRET, "set for other hosts only; it must be the same everywhere")
            elif _sealed(secrets[name]) != _sealed(secrets[first]):
                problems.add(name, PRESHARED_SECRET, f"differs from that of {first}; it must be the same everywhere")
        try:
            secret = Templar(loader=self._loader, variables=hostvars.raw_get(first)).template(secrets[first])
            if hasattr(secret, "_ciphertext"):  # before ansible-core 2.19, templates leave a vaulted value as it is
                secret = str(secret)
        except AnsibleError as error:  # its text might hold a part of the value
            problems.add(
                first, PRESHARED_SECRET, f"cannot be read ({type(error).__name__}): is the vault's password given?"
            )
            return True
        if not isinstance(secret, str) or len(secret) < SHORTEST_SECRET:
            problems.add(first, PRESHARED_SECRET, f"must be a text of {SHORTEST_SECRET} characters or more")
        return True


def _sealed(value: Any) -> Any:
    """A vaulted value as it is in the file: comparing what is in it would cost a decryption for each host."""
    return getattr(value, "_ciphertext", value)


def _template(templar: Templar, raw: object, host: str, key: str, problems: Problems) -> object:
    if raw is None or isinstance(raw, (bool, int)):
        return raw
    try:
        return templar.template(raw)
    except AnsibleError as error:
        problems.add(host, key, f"cannot be templated: {error}")
        return None


def _places(options: Mapping[str, Any], inventory_dir: object) -> tuple[Path, Path]:
    """The plan directory and the registry, absolute; defaults lie beside the inventory."""
    places = []
    # Ansible skips hidden files and directories in a directory inventory.
    for option, default in (
        ("plan_dir", ".edgewire/plans"),
        ("registry", "group_vars/all/edgewire_public_keys.yml"),
    ):
        if options[option] is not None:
            places.append(Path(options[option]).absolute())
        elif isinstance(inventory_dir, str):
            places.append(Path(str(inventory_dir)).absolute() / default)
        else:
            raise EdgewireError(
                f"the inventory is not a file or directory, so there is nothing beside it: set {option}"
            )
    return places[0], places[1]


def _summary(inventory: Mapping[str, Any], outcome: Outcome, registry: Path) -> dict[str, Any]:
    groups = inventory["groups"]
    return {
        "plan_dir": str(outcome.plan_dir),
        "registry": str(registry),
        "registry_changed": outcome.registry_changed,
        "drained": list(outcome.drained),
        "drained_changed": outcome.drained_changed,
        "fleet_hash": outcome.written.fleet_hash,
        "hosts": outcome.written.total,
        "edges": len(groups[EDGES]),
        "workers": len(groups[WORKERS]),
        "services": len(inventory["vars"].get("edgewire_services") or []),
        "written": outcome.written.written,
        "removed": outcome.written.removed,
        "missing_keys": list(outcome.plan.missing_keys),
        "warnings": list(outcome.plan.warnings),
    }
