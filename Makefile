# Everything a developer or a first-time user needs; `make help` lists it.

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
CODE := eoaug tests examples catalogs docs packaging integrations
DATA ?= data/train
VALIDATION ?= data/validation
CHIPS ?= data/eurosat
OUT ?= runs
# That train together; the last bits of the weights depend on their number. The shipped ones were two.
PROCESSES ?= 2
SERVICES := .venv-services
# Processes of the test runner: one per core.
WORKERS ?= auto
# Compiled modules are kept, whatever the environment says: the tests start many processes, and each would compile
# torch and xarray anew. Empty means unset.
export PYTHONDONTWRITEBYTECODE :=

# 3.12 first: it is what the constraints were resolved for. A pyenv shim may be there and not run, so each
# candidate is tried, not only found.
PYTHONS := python3.12 python3.13 python3.14 python3 python \
	$(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python)

.DEFAULT_GOAL := help
.PHONY: help venv demo docs images packages test properties test-slow test-long test-services lint format bench evaluate train-embedded constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## make .venv with everything that eoaug and its tests need

$(READY): pyproject.toml constraints.txt
	@if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
	  for candidate in $(PYTHON) $(PYTHONS); do \
	    found=$$("$$candidate" -c 'import sys; print(sys.executable if sys.version_info >= (3, 12) else "")' 2>/dev/null) || continue; \
	    if [ -n "$$found" ]; then break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "eoaug needs Python 3.12 or newer, and none was found." >&2; \
	    echo "  -> Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$found"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(VENV)/bin/uv pip install --quiet --python $(PY) --constraint constraints.txt --group dev --editable .
	@touch $@

demo: $(READY) ## four verbs on real Sentinel-2 data: a catalog, a picture and a page in demo-output/
	$(PY) examples/demo.py --out demo-output

docs: $(VENV)/.docs ## build the documentation site in docs/_build/html, with every notebook executed (some minutes)
	$(PY) -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

packages: $(READY) ## build wheel and sdist, and try them in four bare environments in runs/packages
	packaging/try_packages.sh "$(VENV)/bin/uv" "$(PY)" "$(OUT)/packages"

images: $(READY) ## make the pictures of README and gallery anew
	$(PY) docs/make_images.py

$(VENV)/.docs: $(READY)
	$(VENV)/bin/uv pip install --quiet --python $(PY) --constraint constraints.txt --group docs
	@touch $@

test: $(READY) ## lint and, at the same time, every property on a subset of its cases (some minutes on 2 cores)
	@$(MAKE) --no-print-directory -j 2 lint properties

properties: $(READY)
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not long and not services"

test-slow: $(READY) $(VENV)/.docs ## the remaining cases, and 200 examples of every property of hypothesis (an hour or more)
	HYPOTHESIS_PROFILE=default $(PY) -m pytest -n $(WORKERS) --dist loadfile \
	  -m "(slow or hypothesis) and not long and not services"

test-long: $(READY) ## jobs killed, corrupted and attacked in full counts (most of an hour)
	$(PY) -m pytest -m "long and not services"

test-services: $(READY) $(SERVICES)/.installed ## jobs between real S3, STAC API and SLURM, started here and stopped
	EOAUG_SERVICES="$(CURDIR)/$(SERVICES)" $(PY) -m pytest -m services -s

$(SERVICES)/.installed: tests/services/requirements.txt $(READY)
	@for program in /usr/lib/postgresql/*/bin/initdb slurmctld munged; do \
	  command -v $$program >/dev/null || missing=1; \
	done; \
	if [ -n "$$missing" ] || ! ls /usr/share/postgresql/*/extension/postgis.control >/dev/null 2>&1; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	    postgresql postgresql-15-postgis-3 slurm-wlm munge; \
	fi
	$(PY) -m venv --clear $(SERVICES)
	$(VENV)/bin/uv pip install --quiet --python $(SERVICES)/bin/python --requirement tests/services/requirements.txt
	@touch $@

lint: $(READY) ## ruff and mypy
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m mypy

format: $(READY) ## let ruff put the code in form
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

bench: $(READY) ## time, memory and import cost; SERIES=file.nc: time per pixel beside other gap fillers
	$(PY) tests/benchmarks/run.py $(if $(SERIES),--series $(SERIES))

evaluate: $(READY) ## score the embedded model in full (half an hour): make evaluate VALIDATION=folder DATA=folder
	$(VENV)/bin/eoaug evaluate embedded --data "$(VALIDATION)" --train "$(DATA)" --all-windows --members 32 \
	  --out "$(OUT)/evaluation"

train-embedded: $(READY) ## train the embedded model anew (eighty minutes): make train-embedded DATA=folder CHIPS=folder
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --standalone --nproc_per_node=$(PROCESSES) --no-python \
	  $(VENV)/bin/eoaug train eoaug/weights/embedded/train.yaml --data "$(DATA)" --chips "$(CHIPS)" --out "$(OUT)/embedded"

constraints: $(READY) ## resolve constraints.txt anew
	$(VENV)/bin/uv pip compile --quiet --python-version 3.12 --no-header --no-annotate --upgrade \
	  --group dev --group docs pyproject.toml --output-file constraints.txt
	$(VENV)/bin/uv --version | awk '{ print "uv==" $$2 }' >> constraints.txt

clean: ## remove what make and the tests left behind; .venv too
	rm -rf $(VENV) $(SERVICES) docs/_build docs/_notebooks demo-output $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
