# Interest Clock. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3.11
PACKAGES := core stats events simulation feature_repo training evaluation model_registry ab_analysis serving pages \
  pipeline streaming operations dags closed_loop studies benchmarks clock
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
MAPPING ?=
HOST ?=
INJECTIONS ?= 200
WORKERS ?= 2
FAST ?=
COVERAGE ?=
SEED ?= 2024
BASES ?=
SPARK ?=
ENGINE ?=
export ENGINE
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export PYTHONUNBUFFERED := 1
# Images often set it. Every step and service is a separate process: without bytecode each compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

INSTALL = $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python
COMPILE_OPTIONS = --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links
COMPILE = $(VENV)/bin/uv pip compile --quiet pyproject.toml $(COMPILE_OPTIONS)
AUDIT = $(VENV)/bin/uv run --quiet --isolated --no-project --with-requirements requirements-audit.txt

$(VENV)/.installed: requirements.txt pyproject.toml
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about 2.1 GB)"
	@test -x $(VENV)/bin/uv || $(VENV)/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"
	@$(INSTALL) -r requirements.txt && $(INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-distributed.txt
	@echo "installing what checks, tests and benches need"
	@$(INSTALL) -r requirements-dev.txt && $(INSTALL) --no-deps -r requirements-distributed.txt
	@touch $@

.PHONY: help setup dev demo loop serve up down secrets doctor test check docs screenshots audit chaos spark format bench study images services containers lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## install the platform into .venv, with the command `clock`

dev: $(VENV)/.installed-dev ## and everything that checks, tests and benches need: Spark, TorchRec, the servers' clients, test tools

demo: setup ## the main job: raw log → features → hourly training → promotion → A/B report (SOURCE= DATA= HOURS= FRESH=1)
	@$(RUN) -m clock demo --source "$(SOURCE)" --hours $(HOURS) $(if $(DATA),--data "$(DATA)") $(if $(filter-out 0,$(FRESH)),--fresh)

loop: setup ## the closed loop: simulated people, serving, hourly steps, A/B report, true effect (ARMS= DAYS= AIRFLOW_HOURS= FRESH=1)
	@$(RUN) -m clock loop --arms "$(ARMS)" --days $(DAYS) --airflow-hours $(AIRFLOW_HOURS) $(if $(filter-out 0,$(FRESH)),--fresh)

serve: setup ## the ranking service of a workspace on 127.0.0.1 (SOURCE=)
	@$(RUN) -m clock serve --source "$(SOURCE)"

up: setup ## start the whole local platform and leave it running: Airflow, MLflow, reports, ranking (SOURCE=)
	@$(RUN) -m clock up --source "$(SOURCE)"

down: ## stop what `make up` started
	@$(RUN) -m clock down --source "$(SOURCE)"

secrets: setup ## what docker/compose.yaml needs: secrets, certificate, .env; nothing is overwritten (HOST=)
	@$(RUN) -m clock ops prepare docker $(if $(HOST),--host "$(HOST)")

doctor: setup ## check everything the platform stands on, and say what to fix (SOURCE=)
	@$(RUN) -m clock ops doctor --source "$(SOURCE)"

test: dev ## all tests, side by side (WORKERS=, 0: one after the other; FAST=1: only what takes minutes in all, no servers; COVERAGE=1)
	@$(RUN) -m pytest tests $(if $(filter-out 0,$(WORKERS)),-n $(WORKERS) --dist loadfile --no-loadscope-reorder) \
	  $(if $(filter-out 0,$(FAST)),-m "not slow") $(if $(filter-out 0,$(COVERAGE)),--cov --cov-report=term)

check: dev ## lint, format, types, layers, bandit; Dockerfile, Compose file and manifests against their schemas
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache > /dev/null || $(VENV)/bin/lint-imports --no-cache
	@$(VENV)/bin/bandit --quiet --recursive -ll -c pyproject.toml $(PACKAGES) 2> >(grep -v "nosec encountered" >&2)
	@$(VENV)/bin/hadolint docker/Dockerfile docker/debian/Dockerfile && $(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml
	@$(VENV)/bin/kubernetes-validate --strict --quiet docker/kubernetes/platform.yaml

docs: dev ## the documentation site in var/site: reference pages from the code, then a strict build
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r requirements-docs.txt
	@$(RUN) -m docs.generate && NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict && echo "site: var/site/index.html"

screenshots: dev ## the README's pictures, from the workspace of a demo that has run, in headless Chromium
	@$(RUN) -m docs.screenshots

audit: setup ## known holes in the pinned dependencies (needs the network), and the list of parts as CycloneDX
	@mkdir -p var && $(AUDIT) cyclonedx-py requirements requirements-production.txt --output-file var/sbom.json && echo "parts: var/sbom.json"
	@$(AUDIT) pip-audit --requirement requirements-production.txt --no-deps --disable-pip --progress-spinner off

format: dev ## put the code in its format
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

chaos: dev ## kill processes of the whole stack at random, compare the state with an undisturbed run (INJECTIONS= SEED=)
	@CHAOS_INJECTIONS=$(INJECTIONS) CHAOS_SEED=$(SEED) CHAOS_REPORT=$(CURDIR)/var/chaos.json $(RUN) -m pytest -s -q tests/operations/test_chaos.py

spark: dev ## what the suite leaves out of Spark's tests: a driver killed in each phase, and training in the hour's DAGs
	@CLOCK_TEST_SPARK=1 $(RUN) -m pytest -q tests/spark/test_spark.py

bench: dev ## speed and memory, side by side with what a user would pick instead
	@$(RUN) -m clock bench

study: setup ## a study with its conclusion (NAME= SOURCE= DATA= MAPPING= SEEDS= REPLICATIONS= FRESH=1; without NAME their list)
	@$(RUN) -m clock study $(if $(NAME),"$(NAME)" --source "$(SOURCE)") $(if $(DATA),--data "$(DATA)") \
	  $(if $(MAPPING),--mapping "$(MAPPING)") $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(REPLICATIONS),--replications "$(REPLICATIONS)") $(if $(filter-out 0,$(FRESH)),--fresh)

images: ## build the platform's container image with docker, podman or buildah (ENGINE=; SPARK=1: Spark's too; BASES=debian: without a registry)
	@docker/images.sh $(BASES) platform $(if $(filter-out 0,$(SPARK)),spark)

services: ## install the servers that some tests start (Debian packages, needs root): PostgreSQL, Redis, Chromium, Java, nginx, Prometheus
	@docker/install_services.sh

containers: dev ## build the images, run the whole stack in containers and test it (podman; as root, 10 to 30 minutes)
	@docker/install_services.sh containers
	@CLOCK_TEST_CONTAINERS=1 $(RUN) -m pytest -s tests/operations/test_containers.py

lock: dev ## resolve pyproject.toml into requirements.txt, and one more for every extra
	@sed -i '/^torch==/d' requirements*.txt  # so that the CPU build of UV_FIND_LINKS is taken where there is one
	@$(COMPILE) --output-file requirements.txt
	@for extra in production spark studies; do $(COMPILE) --extra $$extra --constraint requirements.txt --output-file requirements-$$extra.txt; done
	@$(COMPILE) --extra production --extra spark --extra studies --extra dev --constraint requirements.txt --output-file requirements-dev.txt
	@$(VENV)/bin/uv pip compile --quiet requirements-audit.in $(COMPILE_OPTIONS) --output-file requirements-audit.txt
	@sed -i -E 's/^(torch==[0-9.]+)\+cpu$$/\1/' requirements*.txt

clean: ## remove all run-time state (var/)
	@rm -rf var
