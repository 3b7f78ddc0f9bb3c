# The habits of this project; `make help` lists them.
PYTHON = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup check unit test lab lab-down demo bench docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## system packages (as root) and .venv; done again only when needed
	@sh tools/setup

check: setup ## lint, format, types, layers, unit tests: no root needed once set up, under 30 s
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy lab bench tools
	.venv/bin/lint-imports
	$(PYTHON) -m pytest -q tests/unit

test: setup ## everything, with real hosts and guests (as root): about 25 minutes
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	$(PYTHON) -m lab gc
	$(PYTHON) -m pytest -rs tests

lab: setup ## a lab to play with: one host, two datastores, a VM that writes (as root)
	$(PYTHON) -m lab up

lab-down: setup ## take that lab away
	$(PYTHON) -m lab down

demo: setup ## a running VM moves, judged; leaves nothing behind (KEEP=1 leaves it up)
	$(PYTHON) -m tools.demo $(if $(KEEP),--keep)

bench: setup ## side by side with virsh, qemu-img and dd (as root; BENCH="--quick" for a short one)
	$(PYTHON) -m bench $(BENCH)

docs: setup ## regenerate the generated parts of docs/
	$(PYTHON) -m blockferry.cli.docs

clean: ## remove what is made here, .venv included
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
