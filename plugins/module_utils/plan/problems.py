# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Problems: everything wrong with the input, collected, so that a person mends it in one go."""

from __future__ import annotations

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

# A wrong group variable is wrong on every host of a group; nobody reads ten thousand names.
_SUBJECTS_SHOWN = 8


class Problems:
    """Collects problems; equal complaints about several hosts become one line that names them.

    A problem is ``subject`` (a host, "service dns", a file), ``variable`` (may be empty) and
    ``text``, a sentence that says what is wrong and what would be right.
    """

    def __init__(self) -> None:
        self._subjects: dict[tuple[str, str], set[str]] = {}

    def add(self, subject: str, variable: str, text: str) -> None:
        """Remember one problem; the same one twice counts once."""
        self._subjects.setdefault((variable, text), set()).add(subject)

    def __len__(self) -> int:
        return len(self._subjects)

    def lines(self) -> list[str]:
        """One sorted line a problem: ``subjects: variable: text``."""
        lines = []
        for (variable, text), subjects in self._subjects.items():
            names = sorted(subjects)
            shown = ", ".join(names[:_SUBJECTS_SHOWN])
            if len(names) > _SUBJECTS_SHOWN:
                shown += f" and {len(names) - _SUBJECTS_SHOWN} more"
            lines.append(": ".join(part for part in (shown, variable, text) if part))
        return sorted(lines)

    def raise_if_any(self) -> None:
        """Raise one EdgewireError with a numbered line for each problem; do nothing where there is
        none.
        """
        if not self._subjects:
            return
        lines = self.lines()
        what = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        numbered = "\n".join(f"  {number}. {line}" for number, line in enumerate(lines, start=1))
        raise EdgewireError(f"{what} in the inventory; nothing was changed:\n{numbered}")
