# `make demo` and `make test` need nothing but make and Python >= 3.11: each sets up .venv first, once.
PYTHON ?=
export PYTHON

bin := .venv/bin
set_up := .venv/.set-up
wheel_bin := .venv-wheel/bin
pins := pyproject.toml constraints.txt scripts/setup

.PHONY: setup demo test test-all test-wheel check bench bench-gpu reports build clean

setup: $(set_up)

# The stamp is written last: it stands only for a set-up that ran to its end with the present pins.
$(set_up): $(pins)
	scripts/setup .venv --editable '.[dev]'
	touch $@

demo: setup
	$(bin)/fallline compare digits --budget 60s --yes

test: setup
	$(bin)/python -m pytest -n 2

test-all: setup
	$(bin)/python -m pytest -n 2 -m ''

# The tests import what was installed, never src by path, so they run against a wheel unchanged.
test-wheel: build
	rm -rf .venv-wheel
	scripts/setup .venv-wheel "$$(echo dist/*.whl)[dev]"
	$(wheel_bin)/python -m pytest -n 2

check: setup
	$(bin)/ruff check src tests benches examples
	$(bin)/ruff format --check src tests benches examples
	$(bin)/pyright

bench: setup
	$(bin)/python -m benches

# With whatever torch and Triton the machine of the GPU has.
bench-gpu:
	PYTHONPATH=src python3 -m benches gpu

# Every study and every claim, measured on this machine: about half an hour on two cores.
reports: setup
	$(bin)/fallline study --all --out runs/studies
	$(bin)/fallline claims --out runs/claims
	mkdir -p docs/reports
	cp runs/studies/report.html docs/reports/studies.html
	cp runs/claims/report.html docs/reports/claims.html
	$(bin)/python tests/studies/test_studies_page.py runs/studies
	$(bin)/python tests/claims/test_claims_page.py runs/claims

build: setup
	rm -rf dist
	$(bin)/python -m hatchling build --target wheel --directory dist

clean:
	rm -rf dist build .venv-wheel .pytest_cache .ruff_cache .hypothesis
	find src tests benches examples -name __pycache__ -type d -prune -exec rm -rf {} +
