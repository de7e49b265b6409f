# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which programs of a role hang on which hooks: model and planner, no kernel access.

A role's programs come from one build and share their maps, so they are judged together: a hook is right when the
program on it belongs to the wanted build and to the same set of maps as the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.schema import NAME_LENGTH
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step

HookKind = Literal["xdp", "tc"]

# Above what distributions and CNI plugins use, and apart, so that a box can be edge and worker.
TC_PRIORITY = {"edge": 7700, "worker": 7701}


@dataclass(frozen=True)
class Hook:
    """One program's place: XDP or TC ingress of the interface that plays ``port`` ("uplink", "wireguard", …)."""

    program: str
    kind: HookKind
    port: str


# In the order of attaching: what receives before what sends, so that no packet is handed to nobody.
HOOKS: dict[str, tuple[Hook, ...]] = {
    "edge": (
        Hook("edge_egress", "tc", "wireguard"),
        Hook("edge_handoff", "tc", "uplink"),
        Hook("edge_xdp", "xdp", "uplink"),
    ),
    "worker": (
        Hook("worker_egress", "tc", "container"),
        Hook("worker_ingress", "tc", "wireguard"),
    ),
}


@dataclass(frozen=True)
class Attached:
    """What the kernel has on one hook.

    ``build`` is the identity of the program (32 bytes), None where it is not one of this collection's. ``map_set`` is
    the id of its identity map: the same for programs of one load. ``mode`` is XDP's mode, None for TC. ``linked``
    tells whether our pinned link holds the hook (always true for TC), ``holder`` who does where it is not ours.
    """

    program_id: int
    name: str
    build: bytes | None
    schema: bytes | None
    map_set: int | None
    mode: str | None = None
    linked: bool = True
    holder: str = ""


@dataclass(frozen=True)
class Stray:
    """A program of this collection on a hook where none is wanted."""

    role: str
    kind: HookKind
    interface: str
    ifindex: int
    found: Attached


@dataclass(frozen=True)
class SwitchOn:
    """The operation that switches an interface on."""

    interface: str


@dataclass(frozen=True)
class Desired:
    """A role's programs as they shall be. ``interfaces`` maps a hook's port to an interface name.

    ``force`` takes hooks from whoever holds them. ``alone``: programs of the collection's other role go, too.
    """

    role: str
    interfaces: Mapping[str, str]
    build: bytes
    xdp_mode: str = "native"
    present: bool = True
    force: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Observed:
    """Per program name what is attached, the interface index of each port (None: no such interface), all pins.

    ``pinned_map_set`` is the map set of a complete, pinned set of programs of the wanted build, None without one.
    ``kept`` says whether the wanted build is kept on disk, for the next boot. ``strays`` are programs of ours where
    none is wanted, ``down`` interfaces that are switched off, ``leftovers`` what an earlier run left lying: pins and
    builds that nothing needs.
    """

    attached: Mapping[str, Attached | None]
    ifindex: Mapping[str, int | None]
    pinned_map_set: int | None = None
    leftover_pins: Sequence[str] = field(default_factory=tuple)
    kept: bool = True
    strays: Sequence[Stray] = field(default_factory=tuple)
    down: Sequence[str] = field(default_factory=tuple)
    leftovers: Sequence[str] = field(default_factory=tuple)


def _describe_hook(hook: Hook, mode: str | None) -> str:
    return f"XDP {mode}" if hook.kind == "xdp" else "TC ingress"


def _where(hook: Hook, desired: Desired) -> str:
    return f"{hook.program} on {desired.interfaces[hook.port]}"


def _refuse_foreign(desired: Desired, observed: Observed) -> None:
    wrong = []
    for hook in HOOKS[desired.role]:
        found = observed.attached.get(hook.program)
        interface = desired.interfaces[hook.port]
        if found is None:
            continue
        if found.build is None:
            wrong.append(
                f"{_describe_hook(hook, found.mode)} of {interface} is held by program {found.name!r}"
                f" (id {found.program_id}), which is not this collection's{_holder_text(found)}; detach it first if it"
                " is not needed, or take the hook from it with force"
            )
        elif not found.linked:
            wrong.append(_unlinked_text(interface, found))
    if wrong:
        raise EdgewireError("; ".join(wrong))


def _refuse_unlinked(desired: Desired, observed: Observed) -> None:
    """Our program on an XDP hook that our pin does not hold cannot be taken off; nobody shall think that it was."""
    for hook in HOOKS[desired.role]:
        found = observed.attached.get(hook.program)
        if found and found.build is not None and not found.linked:
            raise EdgewireError(_unlinked_text(desired.interfaces[hook.port], found))


def _holder_text(found: Attached) -> str:
    return f" ({found.holder})" if found.holder else ""


def _unlinked_text(interface: str, found: Attached) -> str:
    return (
        f"XDP of {interface} holds {found.name!r} (id {found.program_id}), attached by a link that is not"
        f" pinned where this collection pins it{_holder_text(found)}; detach it first (bpftool link), or use force"
    )


def _missing_text(names: Sequence[str], observed: Observed) -> str:
    text = f"no such interface: {', '.join(names)}"
    elsewhere = [f"{stray.found.name} on {stray.interface}" for stray in observed.strays]
    return f"{text} (was one renamed? {', '.join(elsewhere)})" if elsewhere else text


def current_map_set(desired: Desired, observed: Observed) -> int | None:
    """The map set that programs of the wanted build use: the first attached one's, else the pinned set's."""
    for hook in reversed(HOOKS[desired.role]):
        found = observed.attached.get(hook.program)
        if found and found.build == desired.build:
            return found.map_set
    return observed.pinned_map_set


def plan(desired: Desired, observed: Observed, *, wireguard_may_be_missing: bool = False) -> list[Step]:
    """The steps that bring a role's hooks to what is desired.

    :param wireguard_may_be_missing: in check mode the WireGuard interface may be one that an earlier task would make.
    Operations are a :class:`Hook` to attach to, a :class:`Stray` to take off, or an interface to :class:`SwitchOn`.

    :raises EdgewireError: a hook is held by somebody else, or an interface does not exist.
    """
    if not desired.present:
        return _plan_absent(desired, observed)
    allowed = {"wireguard"} if wireguard_may_be_missing else set()
    ports = {hook.port for hook in HOOKS[desired.role]} - allowed
    missing = sorted(desired.interfaces[port] for port in ports if observed.ifindex.get(port) is None)
    if missing:
        raise EdgewireError(_missing_text(missing, observed))
    if not desired.force:
        _refuse_foreign(desired, observed)
    down, up = {"state": "down"}, {"state": "up"}
    steps = [make_step("interface", name, down, up, SwitchOn(name)) for name in observed.down]
    hooks = _plan_hooks(desired, observed)
    steps += hooks
    build = {"build": desired.build.hex()[:16]}
    if not hooks:
        # Where a program is to be attached, that its build is kept and pinned goes without saying.
        if not observed.kept:
            steps.append(make_step("build", f"{desired.role} programs on disk", None, build))
        if observed.pinned_map_set != current_map_set(desired, observed):
            steps.append(make_step("pin", f"{desired.role} programs", None, build))
    steps += _plan_strays(observed)
    steps += [make_step("leftover", path, {"path": path}, None) for path in observed.leftovers]
    return steps


def _plan_hooks(desired: Desired, observed: Observed) -> list[Step]:
    map_set = current_map_set(desired, observed)
    steps = []
    for hook in HOOKS[desired.role]:
        found = observed.attached.get(hook.program)
        before = _found_words(hook, found)
        after = {
            "hook": _describe_hook(hook, desired.xdp_mode),
            "build": desired.build.hex()[:16],
        }
        mixed = found is not None and found.build == desired.build and found.map_set != map_set
        unlinked = found is not None and not found.linked
        if before != after or mixed or unlinked:
            if mixed and before is not None:
                before = {**before, "maps": "not shared with the role's other programs"}
            steps.append(make_step("program", _where(hook, desired), before, after, hook))
    return steps


def _plan_strays(observed: Observed) -> list[Step]:
    return [
        make_step(
            "program",
            f"{stray.found.name} on {stray.interface}",
            {
                "hook": f"XDP {stray.found.mode}" if stray.kind == "xdp" else "TC ingress",
                "build": stray.found.build.hex()[:16] if stray.found.build else "",
            },
            None,
            stray,
        )
        for stray in observed.strays
    ]


def _found_words(hook: Hook, found: Attached | None) -> dict[str, str] | None:
    if found is None:
        return None
    words = {
        "hook": _describe_hook(hook, found.mode),
        "build": found.build.hex()[:16] if found.build else f"not ours: {found.name}",
    }
    if found.build and found.name != hook.program[:NAME_LENGTH]:
        words["program"] = found.name
    return words


def _plan_absent(desired: Desired, observed: Observed) -> list[Step]:
    """Only what is ours goes, in the opposite order of attaching."""
    steps = []
    if not desired.force:
        _refuse_unlinked(desired, observed)
    for hook in reversed(HOOKS[desired.role]):
        found = observed.attached.get(hook.program)
        if found and found.build is not None:
            steps.append(make_step("program", _where(hook, desired), _found_words(hook, found), None, hook))
    steps += _plan_strays(observed)
    steps += [make_step("pin", path, {"path": path}, None) for path in observed.leftover_pins]
    return steps
