# The habits of this project; `make help` lists them.
PYTHON = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup lint check test test-all compat lab lab-down demo bench bench-methods faults zoo docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## system packages (as root) and .venv; done again only when needed
	@sh tools/setup

lint: setup ## style, types, layers
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy lab bench faults zoo tools tests
	.venv/bin/lint-imports

check: lint ## lint and the quick unit tests: no root needed once set up, about a minute
	$(PYTHON) -m pytest -q -n 2 --dist worksteal -m "not slow" tests/unit

# A fault of style does not keep the tests from running; it fails the whole in the end. Two processes, each with a lab and
# a host of its own: one guest cannot use two cores.
test: setup ## unit tests, and a part of those with real hosts and guests, by the commit (as root): about 40 minutes
	@$(MAKE) --no-print-directory --keep-going lint && linted=0 || linted=$$?; \
	$(PYTHON) -m pytest -rs -n 4 --dist worksteal tests/unit && unit=0 || unit=$$?; \
	$(PYTHON) -m lab gc && $(PYTHON) -m lab roots debian13 && $(PYTHON) -m pytest -rs -n 2 --dist loadfile tests/lab tests/system || exit $$?; \
	[ $$unit = 0 ] || exit $$unit; \
	[ $$linted = 0 ] || echo "The tests have passed, but lint has not: see above, or make lint." >&2; \
	exit $$linted

test-all: setup ## the same with every system test, every case and every example (as root): for whoever changes decisions
	BLOCKFERRY_EFFORT=all HYPOTHESIS_PROFILE=search PYTEST_ADDOPTS="--timeout 3600" $(MAKE) --no-print-directory test

compat: setup ## a short set of moves on this distribution, Debian 13 and its backports (as root)
	$(PYTHON) -m lab gc
	$(PYTHON) -m lab roots
	BLOCKFERRY_HOSTS="here debian13 debian13-backports" BLOCKFERRY_STARTS=12 \
	$(PYTHON) -m pytest -rs -n 2 --dist loadscope tests/lab/test_other_roots.py tests/system/test_other_hosts.py

lab: setup ## a lab to play with: one host, two datastores, a VM that writes (as root)
	$(PYTHON) -m lab up

lab-down: setup ## take that lab away
	$(PYTHON) -m lab down

demo: setup ## a running VM moves, judged; leaves nothing behind (KEEP=1 leaves it up; as root)
	@$(PYTHON) -m tools.demo $(if $(KEEP),--keep)

bench-methods: setup ## every way to move a disk, against write rate and disk size (as root; BENCH="--minutes 25")
	$(PYTHON) -m bench methods $(BENCH)

bench: setup ## side by side with virsh, qemu-img and dd (as root; BENCH="--quick" for a short one)
	$(PYTHON) -m bench $(BENCH)

faults: setup ## every fault on purpose, judged; 1,000 kills, some 7 hours, in four parts at once 2 (as root; FAULTS="--only kill --budget 30")
	$(PYTHON) -m faults $(FAULTS)

zoo: setup ## generated hosts, a move on each, everything judged (as root; ZOO="--hosts 500 --part 1/4 --seed N --out zoo/results/...")
	$(PYTHON) -m zoo $(ZOO)

docs: setup ## regenerate the generated parts of docs/
	$(PYTHON) -m blockferry.cli.docs

clean: ## remove what is made here, .venv included
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
