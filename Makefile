.DEFAULT_GOAL := help
.PHONY: help setup test test-fast lint format types pins clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install the project with its development tools and the commit hooks
	uv sync
	uv run pre-commit install

test: ## Run every test that this machine can run
	uv run pytest

test-fast: ## Run the tests without the slow ones
	uv run pytest -m "not slow"

lint: ## Check style, spelling and the order of the rooms
	uv run ruff check
	uv run ruff format --check
	uv run codespell
	uv run lint-imports

format: ## Format the code and apply the safe fixes
	uv run ruff check --fix
	uv run ruff format

types: ## Check types
	uv run mypy

pins: ## Resolve every dependency anew and pin the result in pyproject.toml
	python3 scripts/refresh_pins.py

clean: ## Remove caches and build outputs (runs under logs/ stay)
	rm -rf build dist .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
