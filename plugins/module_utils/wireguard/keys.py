# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private keys: made on the host, kept in a file, never shown.

A private key passes only through memory, pipes of wg(8) (never its arguments) and the key file. No
function here puts one into a step, an error text or a log.
"""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import valid_key
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import PrivateKey

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
_LONGEST_KEY_FILE = 4096  # bytes; more is no key file


@dataclass(frozen=True)
class KeyResult:
    """What became of a key file. ``public_key`` is None where there is no key yet."""

    steps: list[Step]
    public_key: str | None
    exists: bool


def ensure_key(path: str, check_mode: bool, adopt: str | None = None) -> KeyResult:
    """Make the key file if there is none, repair its mode and owner if they are wrong.

    A file that is made holds a new key, or the one that the running device ``adopt`` has.
    An existing file is never overwritten: EdgewireError if it holds no key. In check mode nothing
    is touched and the steps are the ones a real run would take.
    """
    file = _absolute(path)
    directory_step = _plan_directory(file)
    file_step = _plan_file(file)
    steps = [step for step in (directory_step, file_step) if step is not None]
    new = _wg("show", adopt, "private-key") if adopt and file_step and file_step.verb == "add" else None
    if not check_mode:
        try:
            if directory_step is not None:
                _settle_directory(file.parent)
            if file_step is not None and file_step.verb == "add":
                _write_new(file, new or _wg("genkey"))
            elif file_step is not None:
                os.chown(file, os.geteuid(), os.getegid(), follow_symlinks=False)
                file.chmod(FILE_MODE)
        except OSError as error:
            raise EdgewireError(f"private key file {file}: {error.strerror}") from None
    key = read_private_key(path)
    shown = key or new
    return KeyResult(steps, public_key_of(shown) if shown else None, key is not None)


def ensure_next_key(path: str, check_mode: bool) -> KeyResult:
    """Make the key beside the one in ``path`` that is to take its place; one that is there already stays."""
    if read_private_key(path) is None:
        raise EdgewireError(
            f"private key file {path}: not there, so there is nothing to rotate; edgewire.fleet.site makes it"
        )
    return ensure_key(str(_next(path)), check_mode)


def rotate_key(path: str, check_mode: bool) -> KeyResult:
    """Put the next key in the place of the one in ``path``, in one step; nothing where there is no next key."""
    old, new = read_private_key(path), read_private_key(str(_next(path)))
    if old is None:
        raise EdgewireError(
            f"private key file {path}: not there, so there is nothing to rotate; edgewire.fleet.site makes it"
        )
    if new is None:
        return KeyResult([], public_key_of(old), True)
    shown = ({"public_key": public_key_of(old)}, {"public_key": public_key_of(new)})
    if not check_mode:
        _next(path).replace(path)
        _sync_directory(Path(path).parent)
    return KeyResult([make_step("private_key", path, *shown)], public_key_of(new), True)


def _next(path: str) -> Path:
    return _absolute(path).with_suffix(".next.key")


def read_private_key(path: str) -> str | None:
    """The private key in the file, None if there is no file; EdgewireError if it holds no key."""
    file = _absolute(path)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EdgewireError(f"private key file {file}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise EdgewireError(f"private key file {file}: not a regular file")
        content = stream.read(_LONGEST_KEY_FILE)
    key = content.decode("ascii", "replace").strip()
    if not valid_key(key):
        raise EdgewireError(
            f"private key file {file}: holds no WireGuard private key ({len(content)} bytes). It "
            "is left as it is; restore it, or move it away to have a new key made"
        )
    return key


def public_key_of(private_key: str) -> str:
    """The public key that belongs to a private key (both base64)."""
    return _wg("pubkey", given=private_key + "\n")


def running_private_key(interface: str) -> PrivateKey:
    """The key that a running device has, for who must be able to give it back."""
    return PrivateKey(b64decode(_wg("show", interface, "private-key")))


def _wg(*command: str, given: str = "") -> str:
    try:
        done = subprocess.run(["wg", *command], input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EdgewireError(
            "wg(8) is missing. On Debian: apt-get install --no-install-recommends wireguard-tools"
        ) from None
    answer = done.stdout.strip()
    if done.returncode != 0 or not valid_key(answer):
        raise EdgewireError(f"wg {' '.join(command)} gave no key (status {done.returncode})")
    return answer


def _absolute(path: str) -> Path:
    file = Path(path)
    if not file.is_absolute():
        raise EdgewireError(f"private key file {path}: the path must be absolute")
    return file


def _shown(status: os.stat_result) -> dict[str, Any]:
    mode = stat.S_IMODE(status.st_mode)
    return {"mode": f"{mode:04o}", "uid": status.st_uid, "gid": status.st_gid}


def _wanted(mode: int) -> dict[str, Any]:
    return {"mode": f"{mode:04o}", "uid": os.geteuid(), "gid": os.getegid()}


def _plan_file(file: Path) -> Step | None:
    wanted = _wanted(FILE_MODE)
    if read_private_key(str(file)) is None:
        return make_step("private_key", str(file), None, wanted)
    have = _shown(file.lstat())
    return make_step("private_key", str(file), have, wanted) if have != wanted else None


def _plan_directory(file: Path) -> Step | None:
    """A step for the key's directory. One that holds other things too is not ours to close."""
    directory, wanted = file.parent, _wanted(DIRECTORY_MODE)
    try:
        status = directory.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise EdgewireError(f"private key file {file}: {directory} is no directory")
        have = _shown(status)
        if have == wanted:
            return None
        others = [entry.name for entry in directory.iterdir() if entry.suffix not in (".key", ".tmp")]
    except FileNotFoundError:
        return make_step("directory", str(directory), None, wanted)
    except OSError as error:
        raise EdgewireError(f"private key file {file}: {directory}: {error.strerror}") from None
    if others:
        raise EdgewireError(
            f"private key file {file}: {directory} has mode {have['mode']} and holds other things "
            f"({sorted(others)[0]}); give the keys a directory of their own"
        )
    return make_step("directory", str(directory), have, wanted)


def _settle_directory(directory: Path) -> None:
    directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    os.chown(directory, os.geteuid(), os.getegid())
    directory.chmod(DIRECTORY_MODE)


def _write_new(file: Path, key: str) -> None:
    """Write the key so that at every moment the file is absent or whole; never over another file.

    link(2), unlike rename(2), fails where the name is taken: of two runs at once the first wins,
    and both then read the same key.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, FILE_MODE)
    try:
        with os.fdopen(descriptor, "w") as stream:
            os.fchmod(descriptor, FILE_MODE)
            stream.write(key + "\n")
            stream.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(file.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
