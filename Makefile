# What each target needs it installs by itself, once: system packages by apt, a .venv, and for the end-to-end tests two
# Debian releases in a cache directory outside the checkout. Run as root, or as a user who may use sudo.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PINNED := .venv-debian13
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E env "PATH=$$PATH")
STATE_DIR ?=
CONFIG ?= /etc/stsguard/stsguard.toml
SECONDS_EACH ?= 60
PYTEST := $(BIN)/python -m pytest -q

export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help demo test run lint types fuzz bench generate clean unit integration e2e debian13 packages-demo packages-test chroots

help:
	@echo "make demo   show real mail to good and tampered destinations (under a minute; root or sudo)"
	@echo "make test   run all tests, end to end through two Postfix versions included (root or sudo)"
	@echo "make run    run the daemon in the foreground; STATE_DIR=DIR without root, CONFIG=FILE"
	@echo "make lint types fuzz bench"

$(VENV)/.stamp: pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/tools/install-packages.sh python3-venv
	@echo "installing the Python packages into $(VENV), which takes a minute"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,postgresql]'
	@touch $@

$(PINNED)/.stamp: pyproject.toml tests/debian13.txt
	@echo "installing Debian 13's versions of them into $(PINNED)"
	$(PYTHON) -m venv $(PINNED)
	$(PINNED)/bin/pip install --quiet --disable-pip-version-check -c tests/debian13.txt -e '.[dev,postgresql]'
	@touch $@

packages-demo:
	@tests/tools/install-packages.sh unbound nsd ldnsutils iproute2 postfix openssl knot knot-dnsutils pebble faketime curl publicsuffix

packages-test:
	@tests/tools/install-packages.sh unbound nsd ldnsutils iproute2 postfix openssl \
		debootstrap postgresql systemd gcc libc6-dev pebble curl nginx-light caddy chromium knot knot-dnsutils faketime publicsuffix

chroots: $(VENV)/.stamp packages-test
	@$(SUDO) $(BIN)/python -m tests.lab.chroots prepare

demo: packages-demo $(VENV)/.stamp
	@$(SUDO) $(BIN)/python -m tests.lab.demo

test: unit integration debian13 e2e

unit: $(VENV)/.stamp
	$(PYTEST) -n auto tests/unit tests/protocol tests/fuzz \
		--cov=stsguard.core --cov=stsguard.names --cov-branch --cov-report=term:skip-covered --cov-fail-under=100

integration: $(VENV)/.stamp packages-test
	$(SUDO) $(PYTEST) -n auto tests/integration

# Once more with the versions that Debian 13 ships, on which its package runs.
debian13: $(PINNED)/.stamp
	$(PINNED)/bin/python -m pytest -q -n auto tests/unit tests/protocol

e2e: $(VENV)/.stamp packages-test chroots
	$(SUDO) $(PYTEST) -p no:xdist tests/e2e

run: $(VENV)/.stamp
	$(BIN)/stsguard outbound --config $(CONFIG) $(if $(STATE_DIR),--state-dir $(STATE_DIR))

lint: $(VENV)/.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.stamp
	$(BIN)/mypy

fuzz: $(VENV)/.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz all --seconds $(SECONDS_EACH)

bench: $(VENV)/.stamp
	$(BIN)/python -m bench

generate: $(VENV)/.stamp
	$(BIN)/python -m stsguard.config.generate

clean:
	rm -rf $(VENV) $(PINNED) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
