# make serve | test | check | bench | install: each works on a fresh machine with Python >= 3.11 and make; test needs more
# programs there, which README.md names and a test that lacks one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Where it is set, every process of the many that are started here would compile all of the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install proto serve test test-all check-ops simulate reliability fuzz fuzz-codecs check docs screens walkthrough format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

serve: install
	$(BIN)/cerememory serve

test: install
	$(BIN)/pytest -n 3 --dist worksteal

# Every round of the crash sweeps, not the sample that `make test` runs.
test-all: install
	CEREMEMORY_TEST_SWEEP=full $(BIN)/pytest -n 3 --dist worksteal

# What is in ops/, read and run by nginx, Caddy, promtool and systemd-analyze, which must be there.
check-ops: install
	$(BIN)/pytest -p no:xdist tests/operations

# Ten thousand simulated lives, where `make test` has eighty; SEEDS=0:100 for others.
simulate: install
	$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS))

# All crash sweeps, simulated lives and a while of fuzzing; the figures go to docs/reliability.md. Takes an hour.
REPORTS := $(CURDIR)/build/reliability
reliability: install
	rm -rf $(REPORTS)
	mkdir -p $(REPORTS)
	CEREMEMORY_TEST_SWEEP=full CEREMEMORY_TEST_REPORTS=$(REPORTS) $(BIN)/pytest -n 2 tests/faults
	$(BIN)/python -m tests.simulation --report $(REPORTS)/simulation.json
	$(MAKE) fuzz fuzz-codecs FUZZ_REPORTS=$(REPORTS)
	$(BIN)/python -m tests.reliability $(REPORTS)

# Minutes of what `make test` does for seconds; FUZZ_SECONDS=3600 for an hour. Reports go to $(FUZZ_REPORTS), when given.
fuzz: install
	$(BIN)/python -m tests.fuzz.run http --seconds $(or $(FUZZ_SECONDS),300) $(if $(FUZZ_REPORTS),--report $(FUZZ_REPORTS)/fuzz-http.json)

# With a fuzzer that follows the code, where there is a wheel of it for this Python; else by random mutations.
fuzz-codecs: install
	-$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run codecs --seconds $(or $(FUZZ_SECONDS),300) $(if $(FUZZ_REPORTS),--report $(FUZZ_REPORTS)/fuzz-codecs.json)

# What the gRPC service reads of the .proto files beside it.
GRPC := src/cerememory/grpc
proto: install
	$(BIN)/python -m grpc_tools.protoc -I$(GRPC) --descriptor_set_out=$(GRPC)/services.binpb $(sort $(notdir $(wildcard $(GRPC)/*.proto)))

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -p no:xdist tests/unit/test_layers.py tests/unit/test_docs.py

# The parts of the pages in docs/ that the code knows by itself.
docs: install
	$(BIN)/python -m docs.generate

# Every command of the README and the quick start, with a wheel in an empty environment instead of this checkout.
WALK := $(CURDIR)/build/walkthrough
walkthrough: install
	rm -rf $(WALK)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WALK) .
	$(PYTHON) -m venv $(WALK)/venv
	$(WALK)/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $(WALK)/*.whl
	CEREMEMORY_TEST_BIN=$(WALK)/venv/bin $(BIN)/pytest -p no:xdist tests/e2e/test_pages.py -k 'README or quickstart'

# The pictures in docs/images, of what commands really write to a terminal.
screens: install
	$(BIN)/python -m docs.screens

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
