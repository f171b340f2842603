# The verbs of this project. `demo` and `test` do all the set-up that they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := out/gemmule-24e

# Pins the build's own requirements too, which -c does not reach.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The tests run on all cores; those of one file need less: .venv/bin/python -m pytest tests/test_plan.py
PARALLEL := -n auto --dist worksteal

.PHONY: demo test slow browser check format reference bench llama-tools size clean

demo: $(READY)  ## the main job on gemmule: calibrate, plan, prune, quantize, measure, report
	rm -rf $(DEMO)
	$(BIN)/secateur shrink gemmule --experts 24 --types Q4_K_M,Q8_0 --per-domain 10 -o $(DEMO)

test: $(READY)  ## the default suite, under five minutes
	$(BIN)/python -m pytest $(PARALLEL)

slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PARALLEL)

browser: $(READY)  ## the tests of report.html, in Chromium, which Debian's package brings if it is missing
	command -v chromium >/dev/null || { apt-get update -q && apt-get install -q -y chromium; }
	$(BIN)/python -m pytest -m slow tests/test_report_browser.py

check: $(READY)  ## style, types
	$(BIN)/ruff format --check secateur tests benchmarks gemmule docs/generator
	$(BIN)/ruff check secateur tests benchmarks gemmule docs/generator
	$(BIN)/mypy --strict -p secateur

format: $(READY)
	$(BIN)/ruff format secateur tests benchmarks gemmule docs/generator
	$(BIN)/ruff check --fix secateur tests benchmarks gemmule docs/generator

reference: $(READY)  ## docs/reference, made from the code
	$(BIN)/python docs/generator/reference.py

bench: $(READY)  ## benchmarks at quick sizes into out/bench, and how they stand to the goals
	$(BIN)/python benchmarks/run_all.py

llama-tools: $(READY)  ## llama.cpp's converter and tools, into out/llama.cpp, for benchmarks that compare
	benchmarks/llama_tools.sh

size: $(READY)  ## lines of code by package
	@wc -l $$(git ls-files 'secateur/*.py') | sort -n | tail -40

clean:
	rm -rf $(VENV) out

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
