#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: forwarder_metrics
short_description: Write a host's counters for Prometheus
version_added: 0.1.0
description:
  - Writes the counters of M(edgewire.fleet.forwarder_stats_info), and handshakes and bytes of WireGuard's peers, into a file in
    Prometheus' text format, for the textfile collector of node_exporter. Names are listed in the documentation, C(docs/metrics.md).
  - The file is replaced in one step, so that a scrape reads the old one or the new one.
  - Writes once. With V(edgewire_metrics_file) in the inventory a box does so by itself, every V(edgewire_metrics_seconds), see
    M(edgewire.fleet.boot_unit).
requirements:
  - python3-bpfcc (libbpf 1.x), python3-pyroute2
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Reads, and says whether the file would change.
  diff_mode:
    support: none
    description: Counters are shown by M(edgewire.fleet.forwarder_stats_info).
options:
  path:
    description:
      - The file, whose name must end in C(.prom). Its directory must exist; it is what node_exporter is given as
        C(--collector.textfile.directory).
    type: path
    default: /var/lib/prometheus/node-exporter/edgewire.prom
seealso:
  - module: edgewire.fleet.forwarder_stats_info
  - module: edgewire.fleet.boot_unit
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Let Prometheus have the counters
  edgewire.fleet.forwarder_metrics:

# To look at them, from the shell:
# ansible edge1 -i inventories/lab -m edgewire.fleet.forwarder_metrics -a path=/tmp/edgewire.prom
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /var/lib/prometheus/node-exporter/edgewire.prom
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.metrics import textfile
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Write the file."""
    return {"changed": textfile.write(Path(params["path"]), check_mode), "path": params["path"]}


def main() -> None:
    """Module entry point."""
    run_module(
        {"path": {"type": "path", "default": "/var/lib/prometheus/node-exporter/edgewire.prom"}},
        work,
        libraries=("pyroute2",),
    )


if __name__ == "__main__":
    main()
