# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that a backend raises for something a person has to mend."""

from __future__ import annotations


class EdgewireError(Exception):
    """Something is wrong that the user can act on; the text says what, where and what to do.

    Modules turn it into ``fail_json``; anything else that escapes a backend is a bug and keeps its traceback.
    """
