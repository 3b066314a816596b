# SPDX-License-Identifier: Apache-2.0
# One verb a line; `make help` lists them. What each needs, `packaging/build` installs.

PYTHON := .venv/bin/python
SHELL_SCRIPTS := .ci/run packaging/build packaging/check-machine packaging/fetch-kernel packaging/provision packaging/lock packaging/install-completion \
	tests/fuzz/build-list-fuzz tests/vm/guest-init tests/vm/guest-run
TEST_JOBS ?= 2
ONCE ?=
RUNS ?= 1000000
KERNEL ?=
TESTS ?=
RUN ?=
VM_TIMEOUT ?= 900
STOCK_KERNELS := tests/vm/test_stock_kernels.py
EACH_KERNEL := -n 2 --dist loadgroup
WHOLE_MACHINES := tests/vm/test_no_deadlock.py

.DEFAULT_GOAL := help
.PHONY: help build run test test-quick vm vm-kernels vm-held-up attacks lint fuzz bench wheel lock clean

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

build: ## install what is missing, build the probes and both programs in .venv/bin
	@packaging/check-machine
	@packaging/build

run: build ## play the story of one attack on this machine; ONCE=1 ends after the first telling
	@$(PYTHON) -m story $(if $(ONCE),--once)

test: lint vm-kernels ## all checks: lint, every test, and the kernel tests and attacks on stock kernels
	@$(PYTHON) -m pytest -n $(TEST_JOBS) --ignore $(STOCK_KERNELS) --ignore $(WHOLE_MACHINES)
	@$(PYTHON) -m pytest $(EACH_KERNEL) $(STOCK_KERNELS) $(WHOLE_MACHINES)

test-quick: build ## the tests that need no kernel and no browser
	@$(PYTHON) -m pytest -q -n $(TEST_JOBS) tests/pure

vm: vm-kernels ## kernel tests and attacks on stock 6.1 and 6.12 with BPF LSM; KERNEL=6.12 TESTS="tests/kernel/test_exec.py -x" or RUN="command"
	@$(PYTHON) -m $(if $(KERNEL)$(TESTS)$(RUN),tests.vm $(if $(KERNEL),--kernel $(KERNEL)) --timeout $(VM_TIMEOUT) $(if $(RUN),-- sh -c '$(RUN)',--tests -- $(TESTS)),pytest $(EACH_KERNEL) $(STOCK_KERNELS))

vm-kernels: build ## fetch the stock kernels 6.1 and 6.12 by package name, once, into build/vm
	@packaging/fetch-kernel 6.1 6.12

vm-held-up: vm-kernels ## whole machines whose agent is stopped, frozen, starved, killed while programs start; part of test
	@$(PYTHON) -m pytest $(EACH_KERNEL) $(WHOLE_MACHINES)

attacks: build ## play every attack here; renews their outcomes and docs/attacks.md
	@$(PYTHON) -m tests.attacks.play --write

lint: build ## ruff, mypy, shellcheck
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@shellcheck $(SHELL_SCRIPTS)

fuzz: build ## feed RUNS=1000000 mutated lists and bundles to all that reads them
	@$(PYTHON) -m tests.fuzz.run $(RUNS)

bench: build ## measure against the peers; results in bench/results
	@$(PYTHON) -m bench

wheel: build ## build a wheel of both programs in dist/
	@.venv/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

lock: ## write packaging/*.lock anew: newer versions of the Python packages
	@packaging/lock

clean: ## remove everything that was built
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	$(MAKE) -C kernel_probes clean
