# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""mkdocs' hooks: adds the pages of reference.py to the site, and to its navigation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_PAGES: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and list them under Reference."""
    spec = importlib.util.spec_from_file_location("edgewire_reference", Path(__file__).with_name("reference.py"))
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    _PAGES.clear()
    _PAGES.update(reference.pages())
    (section,) = [entry["Reference"] for entry in config.nav or () if "Reference" in entry]
    listed = {entry for entry in section if isinstance(entry, str)}
    modules = [path for path in _PAGES if path.startswith("reference/modules/")]
    section += [path for path in _PAGES if path not in listed and path not in modules]
    section.append({"Modules": modules})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    for path, text in _PAGES.items():
        files.append(File.generated(config, path, content=text))
    return files
