# make tune    set up, then tune Kimi K2.5's layers on this machine for a few minutes
# make test    set up, then the tests, JOBS files side by side; `make test-slow` also runs those that take minutes
# make test-web  the site in Chromium; screenshots go to build/screenshots
# make test-fleet  the fleet against PostgreSQL, which the tests start by themselves; also those that take minutes
# make faults  the daemon's fault campaign; FAULT_KILLS=200 for the whole of it
# make soak    the daemon under random use and kills for SOAK_SECONDS, half an hour by default
# make gpu     on a machine with a GPU: corners, tests, benchmarks/gpu.py, seeds, landscapes, into GPU_OUT (build/gpu)
# make check   formatting, lint and types
# make bench   the benchmarks
# make deb     the Debian package, in build/; `make test-deb` installs it in a chroot, as root
# make clean   remove what the above made

PYTHON ?= python3
VENV ?= .venv
STATE ?= $(or $(AUTOTUNE_STATE_DIR),$(CURDIR)/build/state)
BUDGET ?= 240s
JOBS ?= 2
GPU_OUT ?= $(CURDIR)/build/gpu
RECORD ?= 10m
GPU_DEVICE ?= cuda

SHELL := /bin/bash
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help tune test test-slow test-web test-fleet faults soak gpu gpu-corners gpu-seed check bench deb test-deb clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //;/^make /p' Makefile

# The constraints pin torch, so that pip takes the build made for this machine's kind.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "autotune needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || true);" \
			"name another: make PYTHON=python3.12" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); torch is large, so the first time takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

tune: $(INSTALLED)
	@mkdir -p "$(STATE)"
	AUTOTUNE_STATE_DIR="$(STATE)" $(BIN)/autotune tune --model kimi-k2.5 --tp 8 --batch 1,16 --budget $(BUDGET)
	@echo
	@echo 'get_best_config("linear", m=16, n=2112, k=7168) in another process:'
	@AUTOTUNE_STATE_DIR="$(STATE)" $(BIN)/python -c \
		'import autotune; print(autotune.get_best_config("linear", m=16, n=2112, k=7168).explain())'

# Hundreds of processes import the same modules: they compile them once, whatever the caller's environment says.
test: export PYTHONDONTWRITEBYTECODE =
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not browser"

test-web: $(INSTALLED)
	$(BIN)/python -m pytest -m browser tests/web

test-fleet: $(INSTALLED)
	$(BIN)/python -m pytest --timeout 1200 -m fleet tests/fleet

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest --timeout 3600 -m "not deb and not soak and not (slow and faults)"

faults: $(INSTALLED)
	$(BIN)/python -m pytest --timeout 3600 -m faults tests/daemon

soak: $(INSTALLED)
	$(BIN)/python -m pytest --timeout 0 -m soak tests/daemon

# Each part goes on when another has failed: what can be had of a machine that is lent for an hour is kept.
gpu: $(INSTALLED)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || { \
		echo "make gpu: torch in $(VENV) finds no CUDA device; it is for a machine with an NVIDIA GPU" >&2; exit 2; }
	@mkdir -p "$(GPU_OUT)/landscapes"
	AUTOTUNE_CACHE_DIR="$(GPU_OUT)/cache" $(BIN)/autotune fingerprint --json > "$(GPU_OUT)/fingerprint.json"
	-@$(MAKE) --no-print-directory gpu-corners
	-$(BIN)/python -m pytest -m gpu -q tests tests/fingerprint/real_nvml.py > "$(GPU_OUT)/tests.txt" 2>&1
	-AUTOTUNE_CACHE_DIR="$(GPU_OUT)/cache" $(BIN)/python benchmarks/gpu.py --out "$(GPU_OUT)" | tee "$(GPU_OUT)/gpu.txt"
	-@$(MAKE) --no-print-directory gpu-seed
	-cd "$(GPU_OUT)/landscapes" && for m in 1 16 256; do AUTOTUNE_CACHE_DIR="$(GPU_OUT)/cache" \
		"$(abspath $(BIN))/autotune" record linear -p m=$$m,n=2112,k=7168 --device cuda --budget $(RECORD) --json \
		>> ../record.json; done
	@echo "everything is in $(GPU_OUT)"

# GPU_DEVICE=cpu checks what a CPU has; CORNERS_OF="--workload rope" only that.
gpu-corners: $(INSTALLED)
	@mkdir -p "$(GPU_OUT)"
	set -o pipefail; AUTOTUNE_CACHE_DIR="$(GPU_OUT)/cache" $(BIN)/python benchmarks/correctness.py \
		--device $(GPU_DEVICE) --out "$(GPU_OUT)/correctness.json" $(CORNERS_OF) | tee "$(GPU_OUT)/correctness.txt"

# What benchmarks/gpu.py proved, as db/seed/ has it: copy $(GPU_OUT)/seed/*.bundle there to ship it.
gpu-seed: $(INSTALLED)
	@test -e "$(GPU_OUT)/state/history.db" || { \
		echo "make gpu-seed: $(GPU_OUT)/state holds no history; benchmarks/gpu.py --out $(GPU_OUT) makes it" >&2; exit 2; }
	@mkdir -p "$(GPU_OUT)/seed"
	family=$$($(BIN)/python -c 'from autotune.fingerprint import device_named as d; print(d("$(GPU_DEVICE)").family)') && \
		AUTOTUNE_STATE_DIR="$(GPU_OUT)/state" $(BIN)/autotune export bundle --force --to "$(GPU_OUT)/seed/$$family.bundle"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/lookup.py
	$(BIN)/python benchmarks/measurement.py
	$(BIN)/python benchmarks/outcome.py
	$(BIN)/python benchmarks/history_scale.py

deb: $(INSTALLED)
	PYTHON=$(BIN)/python debian/build

test-deb: $(INSTALLED)
	$(BIN)/python -m pytest -m deb tests/debian

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
