# Everything from nothing but Python and make. `make demo` and `make test` each do their own set-up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= .demo
PY     := $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])')
STAMP  := $(VENV)/.installed-$(PY)

# Of `make images`. WHEELS: a folder of wheels to install from, for a place without internet; BASE: an image with Python 3.11 to 3.13.
ENGINE      ?= $(firstword $(notdir $(shell command -v buildah || command -v docker)) buildah-or-docker-is-missing)
BASE        ?= docker.io/library/python:3.13-slim
REGISTRY    ?= localhost
TAG         ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
WHEELS      ?=
BUILD_FLAGS ?=

export OMP_NUM_THREADS ?= 1

# Files of which a test fails beside others (1) are run once more, one by one, and have to pass then: a study's tests need those before them.
# A selection without tests (5) is no failure.
define tests
	@echo pytest $(1) $(ARGS); $(BIN)/pytest $(1) $(ARGS) || case $$? in \
		1) echo "Once more, one by one, the files of what failed:"; $(BIN)/pytest $(1) $(ARGS) -n 0 --dist no --again;; \
		5) ;; \
		*) exit 1;; \
	esac
endef

.PHONY: help install demo test test-fast check cluster cluster-down images crds charts examples proto constraints bench fuzz clean

help: ## what each target does
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 16

install: $(STAMP) ## the virtual environment, with everything

$(STAMP): pyproject.toml constraints/$(PY).txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"fedstudy needs Python 3.11 to 3.13, found {v[0]}.{v[1]}; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints/$(PY).txt -e '.[operator,trainer,dev]'
	touch $@

demo: $(STAMP) ## train a brain-tumour model across four simulated hospitals, with the controls, and write the report
	rm -rf $(DEMO)
	$(BIN)/fedstudy phantom $(DEMO) --profile demo
	$(BIN)/fedstudy run $(DEMO) --out $(DEMO)/results --arms federated,local,pooled
	@echo "The report: $(DEMO)/results/report.html"

test: $(STAMP) ## all tests; those on a real cluster last, the operator's beside those with pods
	$(call tests,-n 2 --dist worksteal -m 'not cluster')
	$(call tests,-n 2 --dist loadscope -m cluster)

test-fast: $(STAMP) ## the everyday tests, under three minutes
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not cluster' $(ARGS)

check: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p fedstudy -p fedstudy_operator -p fedstudy_trainer
	$(BIN)/lint-imports

cluster: $(STAMP) ## a real one-node Kubernetes cluster on this machine, as root; prints how to use it
	$(BIN)/python -m tests.cluster up 0

cluster-down: $(STAMP) ## take it down; nothing stays but the cache
	$(BIN)/python -m tests.cluster down 0

images: ## both container images, with buildah or docker (BASE, TAG, REGISTRY, WHEELS)
	for image in fedstudy fedstudy-trainer; do \
		BUILDAH_ISOLATION=$${BUILDAH_ISOLATION:-chroot} DOCKER_BUILDKIT=1 $(ENGINE) build $(if $(findstring buildah,$(ENGINE)),--layers) $(BUILD_FLAGS) \
			--file trainer-image/Containerfile --target $$image --tag $(REGISTRY)/$$image:$(TAG) --build-arg BASE=$(BASE) \
			--build-arg VERSION=$(TAG) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
			$(if $(WHEELS),--build-context wheels=$(abspath $(WHEELS))) . || exit 1; \
	done

crds: $(STAMP) ## regenerate crds/ from the pydantic models
	$(BIN)/fedstudy crds crds

charts: $(STAMP) ## regenerate the charts' copies, CRD templates, schemas and value tables
	$(BIN)/python charts/generate.py

examples: $(STAMP) ## regenerate the phantom study among the examples
	$(BIN)/python examples/generate.py

proto: $(STAMP) ## regenerate the gRPC stubs from federation.proto
	$(BIN)/python -m grpc_tools.protoc -I federation --python_out=federation --pyi_out=federation --grpc_python_out=federation federation/fedstudy/wire/federation.proto

constraints: ## pin the dependencies anew for each Python (needs uv)
	for v in 311:3.11 312:3.12 313:3.13; do uv pip compile --quiet --no-header --no-annotate --upgrade --universal --python-version $${v#*:} --all-extras pyproject.toml -o constraints/py$${v%:*}.txt; done

bench: $(STAMP) ## measure what the documents claim
	$(BIN)/python -m benchmarks

fuzz: $(STAMP) ## coverage-guided bad bytes at every reader and every RPC for FUZZ_SECONDS (an hour); installs atheris
	$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: atheris || { echo "atheris has no wheel for this Python and machine: make fuzz cannot run here"; exit 1; }
	$(BIN)/python -m fuzz -max_total_time=$(or $(FUZZ_SECONDS),3600) -rss_limit_mb=2048 -timeout=10

clean: ## remove what was made, but not the virtual environment
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
