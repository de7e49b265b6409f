# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contents of a role's maps are made of."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/bpf/options.py: CONTENTS_SPEC."""

    DOCUMENTATION = r"""
options:
  role:
    description: Whose maps.
    type: str
    choices: [edge, worker]
    required: true
  state:
    description:
      - V(overridden) - the maps say what the options say, and nothing else.
      - V(merged) - what the options say is added or changed, and nothing is removed; a service keeps backends that are not named.
      - V(deleted) - what the options name goes. A service goes as a whole where it is named without backends, otherwise only
        these go. What is not there is no error.
      - V(gathered) - returns what the maps say as options, and changes nothing. Everything but names is the kernel's.
      - V(rendered) - returns what would be written to empty maps, and touches nothing, nor needs programs that run.
    type: str
    choices: [merged, overridden, deleted, gathered, rendered]
    default: overridden
  force:
    description: With O(state=deleted), whether the last backend of a service that takes new flows may go.
    type: bool
    default: false
  keep_leaving:
    description:
      - With O(state=overridden), whether what packets on their way need stays although the options do not have it any more. On
        a worker nothing is removed; on an edge, backends that have left a service get no more packets, but their replies still
        find their way. A roll-out removes the rest when all hosts are done.
    type: bool
    default: false
  contents:
    description:
      - The C(edge) or C(worker) object of a host's plan, in place of all options below. For fleets of many services it takes
        a fraction of the time, as Ansible checks options one by one, and copies what is not text; the module checks it all the
        same.
    type: json
  relay_address:
    description:
      - This host's relay address, which is in its peers' allowed IPs and assigned to no interface.
      - Needed for the states that say all that shall be there, without O(contents).
    type: str
  relay_address_ipv6:
    description: The same for IPv6. Needed for IPv6 VIPs.
    type: str
  wireguard_interface:
    description: The WireGuard interface.
    type: str
    default: wg0
  uplink:
    description:
      - The interface on which clients' packets arrive. With O(role=worker) the one through which direct replies leave,
        needed only where there are some.
    type: str
    default: eth0
  reply_interface:
    description:
      - The interface by which packets leave to clients, default O(uplink). Where clients' frames bear a VLAN tag, the VLAN
        interface on the uplink, which puts the tag on. For O(role=edge).
    type: str
  container_interface:
    description: The bridge that the containers hang on. For O(role=worker).
    type: str
    default: podman0
  workers:
    description:
      - For O(role=edge), the workers that backends are on.
      - For O(role=worker), the other workers of backends that have moved to or from this one. It takes relayed packets from
        them, too.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The worker's inventory name.
        type: str
        required: true
      relay_address:
        description: The worker's relay address. Needed, but for O(state=deleted).
        type: str
      relay_address_ipv6:
        description: The worker's IPv6 relay address.
        type: str
      state:
        description:
          - A V(dead) worker's backends keep their places in the services' tables, and their flows, the established ones
            included, go to the next live backend of the table, the same on every edge.
        type: str
        choices: [live, dead]
        default: live
  services:
    description: What this edge serves, one entry for each VIP and port. For O(role=edge).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The service's name.
        type: str
        required: true
      vip:
        description: Service address, IPv4 or IPv6.
        type: str
        required: true
      port:
        description: UDP port on the VIP, of a range the first.
        type: int
        required: true
      last_port:
        description: Last port of a range. Without it the service has the one O(services[].port).
        type: int
      affinity:
        description: Whether every flow is balanced for itself, or all flows of a client go to one backend.
        type: str
        choices: [flow, client]
        default: flow
      oversize:
        description:
          - What becomes of a packet that WireGuard cannot carry whole with the relay option on it. V(refuse) - it is dropped
            and its sender told what fits (ICMP fragmentation needed or packet too big), if the sender has forbidden
            fragmenting, as every IPv6 sender has. V(fragment) - WireGuard's own packet is fragmented, whatever the sender says.
        type: str
        choices: [refuse, fragment]
        default: refuse
      table_size:
        description:
          - How many slots the lookup table has at least. Without it 4096, with more than 1,024 backends 65536. Shares are
            right to a slot, so hundreds of backends may want more; a table of another size sends most flows elsewhere.
        type: int
        choices: [4096, 16384, 65536]
      backends:
        description: Where its packets go. Without a backend of a weight above 0 they are dropped and counted.
        type: list
        elements: dict
        default: []
        suboptions:
          endpoint_id:
            description: Fleet-wide number of this VIP, port and backend, from the plan.
            type: int
            required: true
          worker:
            description: Name of one of O(workers).
            type: str
            required: true
          weight:
            description: Share of the service's flows in proportion to the others'; 0 gets none.
            type: int
            default: 1
          drain_weight:
            description:
              - Above 0 the backend drains, and this is the weight that it had. New flows go to the others; those that its
                worker knows stay until they are idle, or until the deadline.
            type: int
            default: 0
      drain_deadline:
        description:
          - For how many seconds flows may stay with a backend that drains. Counts from the run that first sees it drain;
            later runs leave a deadline alone that is set.
        type: int
        default: 600
  filters:
    description:
      - Who may send to a service, and how much. For O(role=edge).
      - A filter that changes is written beside the old one and switched to; it then starts with full buckets.
    type: list
    elements: dict
    default: []
    suboptions:
      service:
        description: Name of one of O(services); the filter holds for all VIPs and ports of that name together.
        type: str
        required: true
      allow:
        description:
          - Networks (CIDR) whose packets are let in. Of several that hold a source the longest decides.
          - With any of them, sources that are in no network of either list are denied.
        type: list
        elements: str
        default: []
      deny:
        description: Networks (CIDR) whose packets are dropped, counted as C(source_denied).
        type: list
        elements: str
        default: []
      packets_per_second:
        description: Most packets a second of all sources together; what is beyond is dropped, counted as C(service_rate).
        type: int
      burst:
        description: Packets of all sources together that may come at once.
        type: int
      per_source_packets_per_second:
        description:
          - Most packets a second of one source, an IPv4 address or an IPv6 /64; what is beyond is dropped, counted as
            C(source_rate).
        type: int
      per_source_burst:
        description: Packets of one source that may come at once.
        type: int
  drop_unserved:
    description:
      - Whether packets for a VIP that are for none of its services are dropped, counted as C(not_a_service). ICMP and ICMPv6
        are left to the host in any case. For O(role=edge).
    type: bool
    default: false
  edges:
    description: The edges whose packets this worker takes. For O(role=worker).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The edge's inventory name.
        type: str
        required: true
      relay_address:
        description: The edge's relay address. Needed, but for O(state=deleted).
        type: str
      relay_address_ipv6:
        description: The edge's IPv6 relay address.
        type: str
  endpoints:
    description: The container endpoints on this worker. For O(role=worker).
    type: list
    elements: dict
    default: []
    suboptions:
      endpoint_id:
        description: Fleet-wide number of this VIP, port and backend, from the plan.
        type: int
        required: true
      service:
        description: The service's name. This and what follows is needed, but for O(state=deleted).
        type: str
      vip:
        description: Service address, IPv4 or IPv6.
        type: str
      port:
        description: UDP port on the VIP, of a range the first.
        type: int
      last_port:
        description: Last port of a range. Without it the endpoint has the one O(endpoints[].port).
        type: int
      container_address:
        description: Address of the container, of the same family as the VIP.
        type: str
      container_port:
        description: UDP port in the container, of a range the first; the others follow.
        type: int
      reply:
        description:
          - Whether replies go back through the edge, or leave through this host's own O(uplink) with the VIP as source. The
            network behind the uplink must take packets from that address.
        type: str
        choices: [edge, direct]
        default: edge
      drain_idle:
        description: How many seconds a flow may be silent, while the endpoint drains, before it goes elsewhere.
        type: int
        default: 60
      oversize:
        description: O(services[].oversize) for replies; with O(endpoints[].reply=direct) WireGuard is not in their way.
        type: str
        choices: [refuse, fragment]
        default: refuse
  moved:
    description:
      - Endpoints that were on this worker and are on another one now. What an edge that does not know yet still sends here
        goes on there, and the replies back to that edge. For O(role=worker).
    type: list
    elements: dict
    default: []
    suboptions:
      endpoint_id:
        description: Fleet-wide number of this VIP, port and backend, from the plan; the same on both workers.
        type: int
        required: true
      service:
        description: The service's name. This and what follows is needed, but for O(state=deleted).
        type: str
      vip:
        description: Service address, IPv4 or IPv6.
        type: str
      port:
        description: UDP port on the VIP, of a range the first.
        type: int
      last_port:
        description: Last port of a range. Without it the endpoint has the one O(moved[].port).
        type: int
      moved_to:
        description: Name of the one of O(workers) that has the endpoint now.
        type: str
"""
