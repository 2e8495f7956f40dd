# Everything a person or CI does with a clone. A second run of any target installs nothing and needs no network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ROOMS := core imager hardware appliance web bootenv
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
APT := .venv/.packages
VENV := .venv/.installed
CEPH_PORT := 18480

.PHONY: help setup check lint types imports scripts spelling unit test test-ceph lab demo soak bench clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(VENV) ## Debian packages, .venv and .venv/bin/refloat (as root; Debian 12 or 13)

$(APT): packages.apt
	@tests/tools/packages packages.apt
	@mkdir -p .venv && touch $@

$(VENV): $(APT) requirements.txt requirements-dev.txt pyproject.toml
	@test -x $(PYTHON) || /usr/bin/python3 -m venv --system-site-packages .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

check: lint types imports scripts spelling unit ## lint, types, import contracts, unit tests

lint: $(VENV)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(VENV)
	$(PYTHON) -m mypy $(ROOMS) tests

imports: $(VENV)
	.venv/bin/lint-imports --no-logo

scripts: $(VENV)
	tests/tools/scripts | xargs -r shellcheck

spelling: $(VENV)
	git ls-files -z | xargs -0 .venv/bin/codespell

unit: $(VENV)
	$(PYTEST) -n 2 -m "not (block or soak or fuzz or vm)"

test: lint types imports scripts spelling demo ## everything: check, demo, every tier, and the lab's three essential chains
	$(PYTEST) -m "not vm"
	$(PYTEST) -m vm tests/lab

test-ceph: $(VENV) ## the suite of the sites against Ceph's gateway on this machine (apt: radosgw ceph-mon ceph-osd ceph-common)
	folder=$$(mktemp -d); trap "tests/tools/ceph stop $$folder; rm -rf $$folder" EXIT; \
	tests/tools/ceph start $$folder $(CEPH_PORT); \
	REFLOAT_CEPH=$(CEPH_PORT) $(PYTEST) -k s3-ceph tests/imager/test_sites.py

lab: $(VENV) ## every scenario of the lab, and every test that needs QEMU; LAB="--list" or names of scenarios
	$(PYTHON) -m tests.lab $(if $(LAB),$(LAB),--all)
	$(if $(LAB),,$(PYTEST) -m vm --ignore=tests/lab)

demo: $(VENV) ## image a disk to two sites, lose it, restore it onto a bigger and a smaller one
	$(PYTHON) -m tests.demo

soak: $(VENV) ## kill -9 and bit flips at every seeded point, and longer fuzzing
	REFLOAT_SOAK=full $(PYTEST) -m "soak or fuzz"

bench: $(VENV) ## Refloat against zstd, partclone, restic and borg; BENCH="--size 8G --runs 3"
	$(PYTHON) -m tests.bench $(BENCH)

clean: ## what was built; the next make sets up again
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
