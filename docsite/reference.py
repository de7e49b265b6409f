# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages that the code writes: inventory variables from the planner's schema, modules and roles from ansible-doc.

Plain functions from data to Markdown; :func:`pages` gathers the data.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from antsibull_docs_parser import dom, md
from antsibull_docs_parser.format import LinkProvider
from antsibull_docs_parser.parser import Context, parse

ROOT = Path(__file__).parents[1]
COLLECTION = "edgewire.fleet"
_MODULES, _ROLES, _PLAYBOOKS = "reference/modules", "reference/roles.md", "reference/playbooks.md"
# What Python-Markdown or HTML would take for markup.
_SPECIAL = re.compile(r"([\\`*_\[\]<>&|])")


def _escape(text: str) -> str:
    return _SPECIAL.sub(lambda found: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(found[1], "\\" + found[1]), text)


def _code(text: str) -> str:
    return f"`{text}`" if "`" not in text else f"`` {text} ``"


class _Formatter(md.MDFormatter):
    """Ansible markup as the Markdown that this site's parser reads; the library's escapes more than that takes back."""

    @staticmethod
    def _format_option_like(part: dom.OptionNamePart | dom.ReturnValuePart, url: str | None) -> str:
        text = _code(part.name if part.value is None else f"{part.name}={part.value}")
        return f"[{text}]({url})" if url else text

    def format_bold(self, part: dom.BoldPart) -> str:
        return f"**{_escape(part.text)}**"

    def format_italic(self, part: dom.ItalicPart) -> str:
        return f"*{_escape(part.text)}*"

    def format_code(self, part: dom.CodePart) -> str:
        return _code(part.text)

    def format_env_variable(self, part: dom.EnvVariablePart) -> str:
        return _code(part.name)

    def format_option_value(self, part: dom.OptionValuePart) -> str:
        return _code(part.value)

    def format_text(self, part: dom.TextPart) -> str:
        return _escape(part.text)

    def format_link(self, part: dom.LinkPart) -> str:
        return f"[{_escape(part.text)}]({part.url})"

    def format_url(self, part: dom.URLPart) -> str:
        return f"<{part.url}>"

    def format_module(self, part: dom.ModulePart, url: str | None) -> str:
        text = _code(part.fqcn.removeprefix(f"{COLLECTION}."))
        return f"[{text}]({url})" if url else text


class _Links(LinkProvider):
    """Links to modules of this collection and to their options, relative to the page at ``page``."""

    def __init__(self, page: str) -> None:
        self._to = "" if page.startswith(_MODULES) else "modules/"

    def plugin_link(self, plugin: dom.PluginIdentifier) -> str | None:
        if plugin.type != "module" or not plugin.fqcn.startswith(f"{COLLECTION}."):
            return None
        return f"{self._to}{plugin.fqcn.rpartition('.')[2]}.md"

    def plugin_option_like_link(
        self, plugin: dom.PluginIdentifier, entrypoint: str | None, what: str, name: list[str], current_plugin: bool
    ) -> str | None:
        link = self.plugin_link(plugin)
        return f"{link}#{_anchor(what, name)}" if link and what == "option" else link


def _anchor(what: str, path: Sequence[str]) -> str:
    return "-".join([what, *path])


def _prose(text: str | Sequence[str], page: str, plugin: dom.PluginIdentifier | None = None, sep: str = "\n\n") -> str:
    paragraphs = parse(text, Context(current_plugin=plugin), errors="exception")
    return md.to_md(paragraphs, formatter=_Formatter(), link_provider=_Links(page), par_sep=sep, current_plugin=plugin)


def _block(content: Any, language: str = "yaml") -> str:
    if not isinstance(content, str):
        content = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)
    return f"```{language}\n{content.strip()}\n```\n"


def _facts(option: Mapping[str, Any]) -> str:
    """Type, default and choices of an option on one line."""
    kind = option.get("type", "str")
    if option.get("elements"):
        kind = f"{kind} of {option['elements']}"
    facts = [f"*{kind}*"]
    if option.get("required"):
        facts.append("**required**")
    if option.get("choices"):
        facts.append("one of " + ", ".join(_code(_value(choice)) for choice in option["choices"]))
    if option.get("default") is not None:
        facts.append(f"default {_code(_value(option['default']))}")
    return " · ".join(facts)


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _options(
    options: Mapping[str, Any], page: str, plugin: dom.PluginIdentifier | None, level: int, above: tuple[str, ...] = ()
) -> Iterator[str]:
    for name, option in sorted(options.items(), key=lambda item: (not item[1].get("required"), item[0])):
        path = (*above, name)
        yield f"{'#' * level} `{'.'.join(path)}` {{ #{_anchor('option', path)} }}\n"
        yield _facts(option) + "\n"
        yield _prose(option["description"], page, plugin) + "\n"
        yield from _options(option.get("suboptions") or option.get("options") or {}, page, plugin, 4, path)


def module_page(name: str, told: Mapping[str, Any]) -> str:
    """A module's page from what ansible-doc tells of it."""
    doc, page = told["doc"], f"{_MODULES}/{name}.md"
    plugin = dom.PluginIdentifier(f"{COLLECTION}.{name}", "module")
    parts = [
        f"# {name}\n",
        f"**{_escape(doc['short_description'])}.**\n",
        _prose(doc["description"], page, plugin) + "\n",
    ]
    if doc.get("requirements"):
        parts += ["Needs on the host: " + _prose(doc["requirements"], page, plugin, sep=", ") + ".\n"]
    attributes = doc.get("attributes") or {}
    rows = [
        f"| {_code(attribute)} | {fact['support']} | {_prose(fact.get('description') or '', page, plugin, sep=' ')} |"
        for attribute, fact in attributes.items()
    ]
    if rows:
        parts += ["| | support | |\n|---|---|---|\n" + "\n".join(rows) + "\n"]
    if told.get("examples"):
        parts += ["## Examples\n", _block(told["examples"])]
    if doc.get("options"):
        parts += ["## Options\n", *_options(doc["options"], page, plugin, 3)]
    if told.get("return"):
        parts.append("## Returns\n")
        for key, value in told["return"].items():
            parts += [f"### `{key}` {{ #{_anchor('retval', (key,))} }}\n", f"*{value['type']}* · {value['returned']}\n"]
            parts.append(_prose(value["description"], page, plugin) + "\n")
            if value.get("sample") is not None:
                parts.append(_block(value["sample"]))
    also = [entry["module"] for entry in doc.get("seealso") or () if "module" in entry]
    if also:
        parts += ["## See also\n", *(f"- {_prose(f'M({module})', page, plugin)}\n" for module in also)]
    return "\n".join(parts)


def roles_page(roles: Mapping[str, Any]) -> str:
    """All roles, from their argument specifications."""
    parts = [
        "# Roles\n",
        "What each role takes; the playbooks give it to them. For fleet variables see [Inventory](inventory.md).\n",
    ]
    for name, role in sorted(roles.items()):
        parts.append(f"## {name.removeprefix(f'{COLLECTION}.')}\n")
        for entry, spec in sorted(role["entry_points"].items(), key=lambda item: item[0] != "main"):
            short = name.removeprefix(f"{COLLECTION}.")
            if not (ROOT / "roles" / short / "tasks" / f"{entry}.yml").exists():
                continue  # only says what the inventory has, which has a page of its own
            tasks = "" if entry == "main" else f" (`tasks_from: {entry}`)"
            parts += [f"### {_escape(spec['short_description'])}{tasks} {{ #{short}-{entry} }}\n"]
            parts += [_prose(spec["description"], _ROLES) + "\n"]
            rows = [
                f"| `{option}` | {_facts(facts)} | {_prose(facts['description'], _ROLES, sep=' ')} |"
                for option, facts in (spec.get("options") or {}).items()
            ]
            if rows:
                parts += ["| variable | | |\n|---|---|---|\n" + "\n".join(rows) + "\n"]
    return "\n".join(parts)


_INVENTORY_INTRODUCTION = """\
Two groups, `edgewire_edges` and `edgewire_workers`, both children of `edgewire`; a host is in exactly one of them. The
planner reads inventory variables and `-e`, not a play's `vars` nor role defaults. Whatever is wrong is refused on the
controller, all of it in one message, before any host is touched. What a run itself takes (packages, capacities, guard)
is in [Roles](roles.md).
"""


def playbooks_page() -> str:
    """All playbooks, with what each says of itself at its top."""
    parts = [
        "# Playbooks\n",
        "`ansible-playbook -i INVENTORY edgewire.fleet.NAME`. When to use which is in the [runbook](../runbook.md).\n",
    ]
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        (told,) = re.findall(r"\A(?:# SPDX.*\n)+---\n((?:#.*\n)+)", text)
        parts += [f"## {path.stem}\n", _escape(re.sub(r"^# ?", "", told, flags=re.MULTILINE))]
    return "\n".join(parts)


class _Nothing:
    """What no converter takes: its refusal says what it wants."""

    def __repr__(self) -> str:
        return "nothing"


def _wanted(variable: Any) -> str:
    """What a variable's converter accepts, in the words of its own error."""
    try:
        variable.convert(_Nothing())
    except ValueError as error:
        words = re.sub(r"^nothing is (not (an? )?|neither )", "", str(error)).replace(" nor ", " or ")
        return _escape(words.rstrip())
    return "list"


def inventory_page() -> str:
    """The fleet's variables, from the schema that the planner reads them by."""
    from ansible_collections.edgewire.fleet.plugins.module_utils.plan import filters, services, variables

    def rows(schema: Mapping[str, Any]) -> str:
        told = [
            f"| `{name}` | {_wanted(variable)} | {_default(variable.default)} | {variable.about} |"
            for name, variable in sorted(schema.items())
        ]
        return "| variable | value | default | |\n|---|---|---|---|\n" + "\n".join(told) + "\n"

    def keys(known: Mapping[str, str]) -> str:
        return "| key | |\n|---|---|\n" + "\n".join(f"| `{key}` | {about} |" for key, about in known.items()) + "\n"

    secret = f"| `{variables.PRESHARED_SECRET}` | text | | {variables.PRESHARED_SECRET_ABOUT} |\n"
    example = (ROOT / "inventories/example/group_vars/all/edgewire.yml").read_text(encoding="utf-8")
    hosts = (ROOT / "inventories/example/hosts.yml").read_text(encoding="utf-8")
    return "\n".join(
        [
            "# Inventory\n",
            _INVENTORY_INTRODUCTION,
            "## Of the whole fleet\n",
            "The same for every host: in `group_vars/all`, which must be a directory.\n",
            rows(variables.FLEET_VARIABLES) + secret,
            "## Of a host\n",
            "For one host, a group, or all.\n",
            rows(variables.HOST_VARIABLES),
            "## A service\n",
            "One entry of `edgewire_services`.\n",
            keys(services.SERVICE_KEYS),
            "### `backends`\n",
            keys(services.BACKEND_KEYS),
            "### `sources`\n",
            keys(filters.SOURCES_KEYS),
            "### `limits`\n",
            keys(filters.LIMITS_KEYS),
            "## An example\n",
            "`inventories/example/hosts.yml`:\n",
            _block(_without_header(hosts)),
            "`inventories/example/group_vars/all/edgewire.yml`:\n",
            _block(_without_header(example)),
        ]
    )


def _default(value: object) -> str:
    if value is None:
        return ""
    return "none" if value in ((), {}) else _code(_value(value))


def _without_header(text: str) -> str:
    return re.sub(r"\A(# SPDX.*\n)+#\n", "", text)


def ansible_doc(kind: str, names: Sequence[str] = ()) -> dict[str, Any]:
    """What ansible-doc tells of this collection's plugins of a kind, all of them or those that are named."""
    tool = Path(sys.executable).with_name("ansible-doc")
    about = [*names] or [COLLECTION, "--list"]
    done = subprocess.run([tool, "-t", kind, "-j", *about], cwd=ROOT, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def pages() -> dict[str, str]:
    """Path in the site to Markdown."""
    # The checkout is not installed; `make setup` has linked it into a collections tree.
    sys.path.insert(0, str(ROOT / ".collections"))
    try:
        inventory = inventory_page()
    finally:
        sys.path.pop(0)
    modules = ansible_doc("module", sorted(ansible_doc("module")))
    roles = ansible_doc("role", sorted(ansible_doc("role")))
    made = {"reference/inventory.md": inventory, _PLAYBOOKS: playbooks_page(), _ROLES: roles_page(roles)}
    for name, told in sorted(modules.items()):
        short = name.removeprefix(f"{COLLECTION}.")
        made[f"{_MODULES}/{short}.md"] = module_page(short, told)
    return made
