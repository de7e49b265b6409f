# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Two commands do everything on a fresh Debian 12 with root: `make demo` and `make test`. Each installs what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
COLLECTION := .collections/ansible_collections/edgewire/fleet

# On the machine that runs Ansible, the lab and the tests. The boxes' own packages are in roles/lab/defaults.
PACKAGES := bpftool clang-14 ethtool iproute2 linux-headers-amd64 make openssh-client procps python3-bpfcc \
            python3-pyroute2 python3-venv systemd-container mmdebstrap wireguard-go wireguard-tools

# Only for `make test-kernel` and `make test-kernel-packets`: another kernel, and what boots it without touching this machine's.
VM_PACKAGES := busybox-static linux-image-amd64 qemu-system-x86

# Only for `make bench`: what the edge is compared with, and the libraries that may be missing here.
BENCH_PACKAGES := libedit2 libjansson4 libnftables1 libnftnl11 libnginx-mod-stream nftables nginx

.PHONY: help
help: ## Show what this Makefile can do
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: .cache/packages.stamp .cache/venv.stamp $(COLLECTION) ## Install packages, the virtual environment and the collection link

.cache/packages.stamp: Makefile
	@mkdir -p .cache
	[ "$$(id -u)" = 0 ] || { echo "edgewire: installing packages needs root; run this as root" >&2; exit 1; }
	missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done)
	if [ -n "$$missing" ]; then
	  echo "installing Debian packages:" $$missing
	  apt-get update -qq
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >.cache/apt.log 2>&1 || { cat .cache/apt.log; exit 1; }
	fi
	# bcc looks for the running kernel's headers. Where the kernel is not the distribution's, these serve as well: the
	# programs use only uapi headers. In a lab of virtual machines and containers that is the rule.
	release=$$(uname -r)
	if [ ! -e "/lib/modules/$$release/build" ]; then
	  headers=$$(ls -d /usr/src/linux-headers-*-common | sort -V | tail -n 1)
	  mkdir -p "/lib/modules/$$release"
	  ln -sfn "$$(ls -d "$${headers%-common}"-* | grep -v -- '-common$$' | head -n 1)" "/lib/modules/$$release/build"
	  ln -sfn "$$headers" "/lib/modules/$$release/source"
	fi
	touch $@

# bcc is a distribution package, so the environment is made from the distribution's Python and sees its packages.
.cache/venv.stamp: requirements-dev.txt | .cache/packages.stamp
	@echo "installing Python packages into $(VENV)"
	/usr/bin/python3 -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(COLLECTION):
	@mkdir -p $(dir $@)
	ln -sfn "$(CURDIR)" $@

# Ansible shows nothing of a task that runs; the lab's scripts write their progress past it, to this shell's error output.
.PHONY: lab-up
lab-up: setup ## Raise the lab: two clients, a router, two edges, two workers with containers
	@EDGEWIRE_LAB_PROGRESS=/proc/$$$$/fd/2 $(BIN)/ansible-playbook -i inventories/lab edgewire.fleet.lab_up

.PHONY: lab-down
lab-down: setup ## Remove the lab without a trace (its image stays; ARGS="-e lab_purge=true" removes that, too)
	@$(BIN)/ansible-playbook -i inventories/lab edgewire.fleet.lab_down $(ARGS)

.PHONY: demo
demo: lab-up ## Raise the lab, roll the collection out to it, and show a packet going all the way
	@lab/demo

.PHONY: lint
lint: setup .cache/lint.stamp ## Every check that runs nothing; some of them with ONLY="ruff mypy"
	@.ci/lint $(ONLY)

# Built from scratch when the versions change, so that nothing of the former ones stays.
.cache/lint.stamp: requirements-lint.txt | .cache/packages.stamp
	@echo "installing Python packages into .cache/lint/venv"
	/usr/bin/python3 -m venv --clear .cache/lint/venv
	.cache/lint/venv/bin/pip install --quiet --disable-pip-version-check -r requirements-lint.txt
	touch $@

# There is one lab, and what runs in it takes all of the machine. The others have namespaces, names and directories of their own.
.PHONY: test
test: TESTS ?= tests/unit tests/kernel tests/lab
test: setup ## Unit tests, kernel tests in namespaces, and the end-to-end run in the lab; some of it with TESTS="tests/unit"
	@lab="$(filter tests/lab%,$(TESTS))" others="$(filter-out tests/lab%,$(TESTS))"
	[ -z "$$others" ] || $(BIN)/pytest -m "not faults" -n 2 --dist worksteal $$others
	[ -z "$$lab" ] || $(BIN)/pytest -m "not faults" $$lab

.PHONY: test-faults
test-faults: setup ## The longer tests of roll-outs that go wrong, of hosts that drain, reboot and die under load
	@$(BIN)/pytest -m faults tests/lab

.PHONY: test-artefact
test-artefact: setup ## The built artefact, installed like a user's, rolls out the lab (a part of make test)
	@$(BIN)/pytest tests/lab/test_artefact.py

.PHONY: test-ansible
test-ansible: setup ## Unit tests and all playbooks with the oldest ansible-core that the collection allows
	@.ci/test-ansible 2.17.14

# The lab is raised by the scenario `default` and removed in the end; what molecule remembers of an earlier run is not
# asked. ARGS="-s mesh --destroy=never" runs one scenario and leaves the lab up.
.PHONY: molecule
molecule: setup ## The roles and playbooks in molecule scenarios, on the lab's boxes
	@export PATH="$(CURDIR)/$(BIN):$$PATH"
	molecule reset >/dev/null 2>&1
	molecule test $(or $(ARGS),--all)

# Mutated packets, each through a program and its specification: more than a million by the kernel's test run alone, the
# others through devices. The seed is printed; EDGEWIRE_FUZZ_SEED takes one, EDGEWIRE_FUZZ_PACKETS how many packets a
# program gets, about.
.PHONY: fuzz
fuzz: setup ## More than a million mutated packets through the programs and through their specification in Python
	@EDGEWIRE_FUZZ_PACKETS=$${EDGEWIRE_FUZZ_PACKETS:-340000} EDGEWIRE_FUZZ_SEED=$${EDGEWIRE_FUZZ_SEED:-$$RANDOM$$RANDOM} \
	  $(BIN)/pytest -s tests/kernel/test_model.py $(ARGS)

# Debian's own kernel in a virtual machine over this machine's root, read-only. Its WireGuard is a real one; this
# machine's kernel may have none. Emulated even where there is a /dev/kvm: inside another virtual machine that often
# is there and does not work, and minutes are all there is to gain.
.PHONY: test-kernel test-kernel-packets
test-kernel: ## WireGuard, routes and a relayed packet on Debian's kernel, in a virtual machine
test-kernel-packets: ## The packet tests, and the specification on a few thousand packets, on Debian's kernel, there
test-kernel: VM_SECONDS := 1200
test-kernel-packets: VM_SECONDS := 7200
test-kernel test-kernel-packets: setup .cache/vm.stamp
	@release=$$(dpkg-query -W -f='$${Depends}' linux-image-amd64 | sed -E 's/linux-image-([^ ,]*).*/\1/')
	[ -e "/lib/modules/$$release/build" ] || { echo "edgewire: /lib/modules/$$release/build is missing: linux-headers-amd64 and linux-image-amd64 differ; apt-get upgrade mends that" >&2; exit 1; }
	PATH="$(CURDIR)/$(BIN):$$PATH" timeout $${EDGEWIRE_VM_SECONDS:-$(VM_SECONDS)} vng -r "/boot/vmlinuz-$$release" --disable-kvm --force-9p --cpus 2 --memory 2G \
	  --user root -- "$(CURDIR)/tests/vm/inside" $@ $(ARGS) </dev/null

.cache/vm.stamp: Makefile requirements-vm.txt .cache/venv.stamp
	@missing=$$(for p in $(VM_PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done)
	if [ -n "$$missing" ]; then
	  echo "installing Debian packages:" $$missing
	  apt-get update -qq
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >.cache/apt-vm.log 2>&1 || { cat .cache/apt-vm.log; exit 1; }
	fi
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-vm.txt
	touch $@

.PHONY: bench
bench: setup .cache/bench.stamp ## ns/packet of the programs beside empty ones; packets/s beside nftables and nginx
	@PYTHONPATH=.collections $(BIN)/python tests/bench/bench_edge.py $(ARGS)
	$(BIN)/pytest -q -s tests/bench/bench_tc.py
	PYTHONPATH=.collections $(BIN)/python tests/bench/bench_rivals.py --tools .cache/bench

# What the edge is compared with is unpacked and not installed: nginx would start serving this machine.
.cache/bench.stamp: Makefile .cache/packages.stamp
	@rm -rf .cache/bench
	mkdir -p .cache/bench/packages
	(cd .cache/bench/packages && apt-get download -qq $(BENCH_PACKAGES))
	for p in .cache/bench/packages/*.deb; do dpkg-deb --extract "$$p" .cache/bench; done
	touch $@

.PHONY: bench-fleet
bench-fleet: setup ## Planning 100 to 10,000 hosts: time and memory, beside a template that loops over hostvars
	@PYTHONPATH=.collections $(BIN)/python tests/bench/bench_fleet.py $(ARGS)

# The site: docs/ and what the code says of itself. Warnings and dead links are errors.
.PHONY: docs
docs: setup .cache/docs.stamp ## The documentation as a site, in .cache/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean -f docsite/mkdocs.yml
	echo "$(CURDIR)/.cache/site/index.html"

.cache/docs.stamp: requirements-docs.txt .cache/venv.stamp
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

.PHONY: bench-maps
bench-maps: setup ## Writing and verifying 100,000 map entries and 10,000 services, inside the modules
	@$(BIN)/pytest -q -s tests/bench/bench_maps.py $(ARGS)

.PHONY: clean
clean: ## Remove everything that setup made in this checkout
	rm -rf $(VENV) .collections .cache
