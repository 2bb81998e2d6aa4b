# Interest Clock. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3.11
PACKAGES := core events feature_repo training evaluation ab_analysis serving studies pipeline operations dags
VENV := .venv
RUN := PYTHONPATH=. $(VENV)/bin/python
SOURCE ?= simulator
DATA ?=
FRESH ?=
SEEDS ?=
HOURS ?= 6
ARMS ?= hour_embedding,matched_clock
DAYS ?= 14
AIRFLOW_HOURS ?= 0
REPLICATIONS ?=
HOST ?=
INJECTIONS ?= 200
WORKERS ?= 2
FAST ?=
SEED ?= 2024
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export PYTHONUNBUFFERED := 1

$(VENV)/.installed: requirements.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about 3 GB, under a minute with a warm cache)"
	@test -x $(VENV)/bin/uv || $(VENV)/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r requirements.txt
	@touch $@

.PHONY: help setup demo loop serve up down secrets doctor test check audit chaos format bench study services lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## install everything into .venv

demo: setup ## the main job: raw log → features → hourly training → promotion → A/B report (SOURCE= DATA= HOURS= FRESH=1)
	@$(RUN) -m pipeline --source "$(SOURCE)" demo --hours $(HOURS) $(if $(DATA),--data "$(DATA)") $(if $(filter-out 0,$(FRESH)),--fresh)

loop: setup ## the closed loop: simulated people, serving, hourly steps, A/B report, true effect (ARMS= DAYS= AIRFLOW_HOURS= FRESH=1)
	@$(RUN) -m pipeline loop --arms "$(ARMS)" --days $(DAYS) --airflow-hours $(AIRFLOW_HOURS) $(if $(filter-out 0,$(FRESH)),--fresh)

serve: setup ## the ranking service of a workspace on 127.0.0.1 (SOURCE=)
	@$(RUN) -m serving --source "$(SOURCE)" run

up: setup ## start the whole local platform and leave it running: Airflow, MLflow, reports, ranking (SOURCE=)
	@$(RUN) -m pipeline --source "$(SOURCE)" up

down: ## stop what `make up` started
	@$(RUN) -m pipeline --source "$(SOURCE)" down

secrets: setup ## what docker/compose.yaml needs: secrets, certificate, .env; nothing is overwritten (HOST=)
	@$(RUN) -m operations prepare docker $(if $(HOST),--host "$(HOST)")

doctor: setup ## check everything the platform stands on, and say what to fix (SOURCE=)
	@$(RUN) -m operations --source "$(SOURCE)" doctor

test: setup ## all tests, side by side (WORKERS=, 0: one after the other; FAST=1: only what takes minutes in all, no servers)
	@$(RUN) -m pytest tests $(if $(filter-out 0,$(WORKERS)),-n $(WORKERS) --dist loadgroup --no-loadscope-reorder) \
	  $(if $(filter-out 0,$(FAST)),-m "not slow")

check: setup ## lint, format, types, bandit; Dockerfile, Compose file and manifests against their schemas
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	@$(VENV)/bin/bandit --quiet --recursive -ll -c pyproject.toml $(PACKAGES) 2> /dev/null
	@$(VENV)/bin/hadolint docker/Dockerfile && $(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml
	@$(VENV)/bin/kubernetes-validate --strict --quiet docker/kubernetes/platform.yaml

audit: setup ## known holes in the pinned dependencies (needs the network), and the list of parts as CycloneDX
	@$(VENV)/bin/cyclonedx-py requirements requirements.txt --output-file var/sbom.json && echo "parts: var/sbom.json"
	@$(VENV)/bin/pip-audit --requirement requirements.txt --no-deps --disable-pip --progress-spinner off

format: setup ## put the code in its format
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

chaos: setup ## kill processes of the whole stack at random, compare the state with an undisturbed run (INJECTIONS= SEED=)
	@CHAOS_INJECTIONS=$(INJECTIONS) CHAOS_SEED=$(SEED) CHAOS_REPORT=$(CURDIR)/var/chaos.json $(RUN) -m pytest -s -q tests/operations/test_chaos.py

bench: setup ## speed and memory, side by side with what a user would pick instead
	@$(RUN) -m benchmarks

study: setup ## a study with its conclusion (NAME= SOURCE= DATA= SEEDS= REPLICATIONS= FRESH=1; without NAME their list)
	@$(RUN) -m studies $(if $(NAME),"$(NAME)" --source "$(SOURCE)",--help) $(if $(DATA),--data "$(DATA)") \
	  $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(REPLICATIONS),--replications "$(REPLICATIONS)") $(if $(filter-out 0,$(FRESH)),--fresh)

services: ## install the servers that some tests start (Debian packages, needs root): PostgreSQL, Redis, Chromium, Java, nginx, Prometheus
	@docker/install_services.sh

lock: setup ## resolve requirements.in into requirements.txt
	@sed -i '/^torch==/d' requirements.txt  # so that the CPU build of UV_FIND_LINKS is taken where there is one
	@$(VENV)/bin/uv pip compile --quiet requirements.in --output-file requirements.txt --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links
	@sed -i -E 's/^(torch==[0-9.]+)\+cpu$$/\1/' requirements.txt

clean: ## remove all run-time state (var/)
	@rm -rf var
