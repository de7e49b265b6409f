# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what a box keeps for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    :raises EdgewireError: where it is not there or is something else; its content is not quoted.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgewireError(f"{path}: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise EdgewireError(f"{path}: damaged, it holds no JSON object")
    return content
