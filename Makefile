# Everything there is to do with a checkout. `make` alone lists it.
#
# Needs Rust, Python 3.10 or newer, gcc, g++ and make; Python packages go into virtual environments
# under target/.

PYTHON ?= python3
VENV := target/venv
ENV_PYTHON := $(VENV)/bin/python
BENCH_VENV := target/venv-bench
TORCH_VENV := target/venv-torch
LIBRARY := target/release/libfocal_loss.so

.PHONY: help build test demo notebook accuracy lint format header test-rust test-c test-python test-hosts test-wheel test-torch wheel bench bench-rust clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the library and write include/focal_loss.h
	cargo build --release

test: lint test-rust test-c test-python test-hosts test-wheel ## Run everything that a change must pass, but for test-torch
	@echo "make test: everything passed"

demo: build $(VENV)/.ready ## Evaluate the focal loss of a real detector on real photographs
	$(ENV_PYTHON) onnx/sample/demo.py --out target/demo

notebook: build $(VENV)/.ready ## Run docs/focal-loss.ipynb and write its outputs into it
	$(ENV_PYTHON) docs/run_notebook.py

accuracy: build target/venv-bench/.ready ## Write docs/accuracy.md: errors in ULP, beside torchvision's
	target/venv-bench/bin/python tests/python/accuracy_report.py

lint: ## Check formatting, clippy, the documentation's links and the header's freshness
	cargo fmt --check
	cargo clippy --release --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
	touch build.rs && cargo build --release
	git diff --exit-code --stat -- include/focal_loss.h || { echo "include/focal_loss.h is not fresh: commit it"; exit 1; }

format: ## Format the Rust code
	cargo fmt

test-rust: $(VENV)/.ready ## Accuracy, semantics, determinism, and ONNX Runtime from a Rust host
	cargo test --release

test-c: build ## C99 to C23 and C++11 to C++23 programs against the header and the shared library
	$(MAKE) --no-print-directory -C tests/c

test-python: build $(VENV)/.ready ## The C ABI through ctypes, the Python package, the operators in the newest ONNX Runtime
	$(ENV_PYTHON) -m pytest -q tests/python

test-hosts: build ## The operators in ONNX Runtime 1.17.3, 1.23.2, 1.24.4 and the newest
	$(PYTHON) tests/python/ort_matrix.py

wheel: ## Build the Python package with the library in it: target/wheel
	$(PYTHON) tests/python/wheel.py build

test-wheel: ## Build the wheel, audit it, and try it in every Python from 3.10 that can be found
	$(PYTHON) tests/python/wheel.py build test

test-torch: build $(TORCH_VENV)/.ready ## The package with PyTorch, and the peers' losses (downloads about 3 GB the first time)
	$(TORCH_VENV)/bin/python -m pytest -q tests/torch tests/python/test_package_numpy.py tests/python/test_package_types.py

# The package is installed in place, so that only its requirements age.
$(VENV)/.ready: tests/python/requirements.txt onnx/sample/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(ENV_PYTHON) -m pip install --quiet -r tests/python/requirements.txt
	$(ENV_PYTHON) -m pip install --quiet --editable .
	touch $@

$(TORCH_VENV)/.ready: tests/torch/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet -r tests/torch/requirements.txt
	$(TORCH_VENV)/bin/python -m pip install --quiet --editable .
	touch $@

bench: build $(BENCH_VENV)/.ready ## Measure against memory, PyTorch, JAX and in ONNX Runtime; write docs/benchmarks.md
	$(BENCH_VENV)/bin/python benches/peers.py

bench-rust: ## Measure our kernels by themselves
	cargo bench --bench kernels

$(BENCH_VENV)/.ready: benches/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet -r benches/requirements.txt
	$(BENCH_VENV)/bin/python -m pip install --quiet --editable .
	touch $@

clean: ## Remove everything that was built
	cargo clean
