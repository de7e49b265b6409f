# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that tell others what is ours, in a directory that stands for /."""

from __future__ import annotations

import configparser
import os
import re
import time
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import announce

NETWORKD = ("file", "/etc/systemd/networkd.conf.d/edgewire.conf")
PROTOCOL = ("file", "/etc/iproute2/rt_protos.d/edgewire.conf")
RESTART = ("service", "systemd-networkd.service")


def run(root: Path, absent: bool = False, begun: float | None = None) -> list[tuple[str, str]]:
    """Plan and carry out, but for the restart; what was done."""
    steps = announce.plan(158, absent, root, lambda: begun)
    announce.perform([step for step in steps if step.kind == "file"])
    return [(step.kind, step.name) for step in steps]


def test_made_once_repaired_and_taken_away_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "etc/iproute2/rt_protos.d").mkdir(parents=True)
    (tmp_path / "etc/systemd").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert run(tmp_path) == [NETWORKD, PROTOCOL]
    assert run(tmp_path) == []
    path = tmp_path / announce.PROTOCOL_FILE
    assert [line.split() for line in path.read_text().splitlines() if not line.startswith("#")] == [["158", "edgewire"]]
    settings = configparser.ConfigParser(comment_prefixes="#")
    settings.read(tmp_path / announce.NETWORKD_FILE)
    assert dict(settings["Network"]) == {"manageforeignroutes": "no", "manageforeignroutingpolicyrules": "no"}
    path.write_text("159 edgewire\n")
    assert run(tmp_path) == [PROTOCOL]
    assert run(tmp_path, absent=True) == [NETWORKD, PROTOCOL]
    assert run(tmp_path, absent=True) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_drop_in_of_others_keeps_the_directory(tmp_path: Path) -> None:
    run(tmp_path)
    other = tmp_path / "etc/systemd/networkd.conf.d/other.conf"
    other.write_text("")
    run(tmp_path, absent=True)
    assert other.exists()


def test_a_networkd_that_has_not_read_the_file_is_restarted(tmp_path: Path) -> None:
    long_ago, soon = time.time() - 1000, time.time() + 1000
    # A run that ends between the file and the restart is completed by the next.
    assert run(tmp_path, begun=long_ago) == [NETWORKD, PROTOCOL, RESTART]
    assert run(tmp_path, begun=long_ago) == [RESTART]
    assert run(tmp_path, begun=soon) == []
    os.utime(tmp_path / announce.NETWORKD_FILE, (long_ago - 5, long_ago - 5))
    assert run(tmp_path, begun=long_ago) == []
    assert run(tmp_path, absent=True, begun=long_ago) == [NETWORKD, PROTOCOL]


def test_a_number_that_another_tool_has_named_is_refused(tmp_path: Path) -> None:
    names = {
        "etc/iproute2/rt_tables": "255\tlocal\n# 7700 of ours\n7700 vpn # somebody's\n",
        "usr/share/iproute2/rt_tables.d/x.conf": "0x1e14 other\n7701 fine\n",
        "etc/iproute2/rt_protos": "158 frr\n",
        "etc/iproute2/rt_protos.d/edgewire.conf": "158 edgewire\n",
        "etc/iproute2/rt_protos.d/ignored.txt": "158 ignored\n",
    }
    for name, content in names.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(EdgewireError) as refused:
        announce.check_names(7700, 158, tmp_path)
    assert re.findall(r"is called (\S+) in", str(refused.value)) == ["vpn", "other", "frr"]
    announce.check_names(7702, 159, tmp_path)
