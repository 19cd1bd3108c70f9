# Everything there is to do with a checkout. `make` alone lists it.
#
# Needs Rust, Python 3.10 or newer, gcc, g++ and make; Python packages go into virtual environments
# under target/.

PYTHON ?= python3
VENV := target/venv
ENV_PYTHON := $(VENV)/bin/python
BENCH_VENV := target/venv-bench
TORCH_VENV := target/venv-torch
PTX_VENV := target/venv-ptx
BUNDLE_VENV := target/venv-bundle
FUZZ_VENV := target/venv-fuzz
# How long, and how often.
export SOAK_SECONDS ?= 600
export SOAK_CYCLES ?= 10000
# Each fuzz target's share, and what carries them.
FUZZ_SECONDS ?= 60
NIGHTLY ?= nightly
CARGO_FUZZ := target/tools/bin/cargo-fuzz
# With a PyTorch that has CUDA.
CUDA_PYTHON ?= python3
LIBRARY := target/release/libfocal_loss.so
# Tools in Rust, built into target/tools; debug builds take a fifth of the time.
CARGO_C := cargo-c@0.10.21+cargo-0.95.0
CARGO_DENY := cargo-deny@0.20.2
CARGO_ABOUT := cargo-about@0.9.3
ABOUT = cargo fetch --locked --quiet && target/tools/bin/cargo-about generate --locked --offline about.hbs
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# Where `make install` puts things; DESTDIR goes in front of it while packages are made.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
DESTDIR ?=

.PHONY: help build test demo notebook accuracy lint format header test-rust test-c test-python test-hosts test-matrix test-driver test-kernels
.PHONY: install test-examples test-install abi deny licences msrv release
.PHONY: fuzz sanitize soak fuzz-rust fuzz-python
.PHONY: test-wheel test-torch test-cuda wheel ptx bench bench-cuda bench-rust cuda-bundle clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the library and write include/focal_loss.h
	cargo build --release

test: lint test-rust test-c test-python test-driver test-kernels test-hosts test-wheel ## Run everything that a change must pass, but for test-torch
	@echo "make test: everything passed"

demo: build $(VENV)/.ready ## Evaluate the focal loss of a real detector on real photographs
	$(ENV_PYTHON) onnx/sample/demo.py --out target/demo

notebook: build $(VENV)/.ready ## Run docs/focal-loss.ipynb and write its outputs into it
	$(ENV_PYTHON) docs/run_notebook.py

accuracy: build $(BENCH_VENV)/.ready ## Write docs/accuracy.md: errors in ULP, beside torchvision's
	$(BENCH_VENV)/bin/python tests/python/accuracy_report.py

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

abi: build ## Record the ABI in docs/abi.txt, which test-c compares with (docs/abi.md)
	$(PYTHON) tests/c/abi.py include/focal_loss.h $(LIBRARY) --record

test-python: build $(VENV)/.ready ## The C ABI through ctypes, the Python package, the operators in the newest ONNX Runtime
	$(ENV_PYTHON) -m pytest -q tests/python

test-hosts: build ## The operators in ONNX Runtime 1.17.3, 1.23.2, 1.24.4 and the newest
	$(PYTHON) tests/python/ort_matrix.py
	HOSTS_WANTED=3 cargo test --release --test hosts -- --nocapture

test-matrix: build ## The operators in every minor release of ONNX Runtime from 1.17 on, optimisation off and all (an hour)
	$(PYTHON) tests/python/ort_matrix.py all

wheel: ## Build the Python package with the library in it: target/wheel
	$(PYTHON) tests/python/wheel.py build

test-wheel: ## Build the wheel, audit it, and try it in every Python from 3.10 that can be found
	$(PYTHON) tests/python/wheel.py build test

install: target/tools/$(CARGO_C) ## Install library, headers, focal_loss.pc and CMake package: PREFIX (/usr/local), LIBDIR, DESTDIR
	PATH="$(abspath target/tools/bin):$$PATH" cargo cinstall --release --locked --prefix "$(abspath $(PREFIX))" \
		--libdir "$(abspath $(LIBDIR))" $(if $(DESTDIR),--destdir "$(abspath $(DESTDIR))")

test-examples: build $(VENV)/.ready ## Build and run examples/: C, C++, Rust, Python, Go, Java, Node.js (each where the machine has it)
	@$(MAKE) --no-print-directory -C examples

test-install: target/tools/$(CARGO_C) ## Install under target/, and build an outside project through pkg-config and CMake
	@tests/install/test_install.sh

deny: target/tools/$(CARGO_DENY) target/tools/$(CARGO_ABOUT) ## Check dependencies: licences, sources, advisories, and that LICENSE-THIRD-PARTY is fresh
	target/tools/bin/cargo-deny --locked check licenses bans sources
	$(ABOUT) -o target/LICENSE-THIRD-PARTY
	cmp target/LICENSE-THIRD-PARTY LICENSE-THIRD-PARTY || { echo "LICENSE-THIRD-PARTY is not fresh: make licences"; exit 1; }
	@if target/tools/bin/cargo-deny fetch db; then target/tools/bin/cargo-deny --locked check --disable-fetch advisories; \
	else echo; echo "ADVISORIES WERE NOT CHECKED: the RustSec database cannot be reached from here (see above)"; fi

licences: target/tools/$(CARGO_ABOUT) ## Write LICENSE-THIRD-PARTY, the licences of what is linked into the library
	$(ABOUT) -o LICENSE-THIRD-PARTY

msrv: ## Build the library with the oldest Rust that Cargo.toml promises
	@command -v rustup >/dev/null || { echo "make msrv: NOT RUN: rustup was not found, which installs Rust $(MSRV)"; exit 1; }
	rustup toolchain install $(MSRV) --profile minimal --no-self-update
	CARGO_TARGET_DIR=target/msrv cargo +$(MSRV) build --release --locked --lib

release: target/tools/$(CARGO_C) ## Make wheel, tarball and checksums in target/release-files, and verify them in a clean folder
	$(PYTHON) packaging/release.py build verify

# The name carries the version, so that another version is another file.
target/tools/cargo-%:
	cargo install --quiet --debug --locked --root target/tools cargo-$* $(if $(findstring about,$*),--features cli)
	@touch $@

test-torch: build $(TORCH_VENV)/.ready ## The package with PyTorch, and the peers' losses (downloads about 3 GB the first time)
	$(TORCH_VENV)/bin/python -m pytest -q tests/torch tests/python/test_package_numpy.py tests/python/test_package_types.py

test-driver: build $(VENV)/.ready ## The CUDA backend without a GPU: a stub of the driver, the kernels as C++
	$(MAKE) --no-print-directory -s -C tests/cuda/driver
	$(ENV_PYTHON) -m pytest -q tests/cuda

test-kernels: $(PTX_VENV)/.ready ## The CUDA kernels: PTX fresh, assembled for every architecture, clean under sanitizers
	$(PTX_VENV)/bin/python src/cuda/kernels/make_ptx.py --check
	$(PTX_VENV)/bin/python tests/cuda/check_ptx.py
	$(MAKE) --no-print-directory -s -C tests/cuda sanitize

ptx: $(PTX_VENV)/.ready ## Write src/cuda/kernels/focal_loss.ptx from the kernels' source
	$(PTX_VENV)/bin/python src/cuda/kernels/make_ptx.py

test-cuda: gpu-library ## On a GPU: values, streams, graphs, ONNX Runtime's CUDA provider, compute-sanitizer
	@$(CUDA_PYTHON) tests/cuda/on_gpu.py test

bench-cuda: gpu-library ## On a GPU: measure against a copy, PyTorch and the CPU; write docs/benchmarks-cuda.md
	@$(CUDA_PYTHON) tests/cuda/on_gpu.py bench

cuda-bundle: build $(BUNDLE_VENV)/.ready ## Write target/focal-loss-cuda.run, which runs test-cuda and bench-cuda on another machine
	$(BUNDLE_VENV)/bin/python tests/cuda/bundle/make_bundle.py

# A machine with a GPU need not have Rust: there the library is carried.
.PHONY: gpu-library
gpu-library:
	@if command -v cargo >/dev/null; then cargo build --release; fi

# Versions of one package are installed side by side, each into a folder with its name.
$(PTX_VENV)/.ready: src/cuda/kernels/requirements.txt tests/cuda/assemblers.txt
	$(PYTHON) -m venv $(PTX_VENV)
	$(PTX_VENV)/bin/python -m pip install --quiet -r src/cuda/kernels/requirements.txt
	for tool in $$(grep -v '^#' tests/cuda/assemblers.txt); do test -d target/ptxas/$$tool || \
		$(PTX_VENV)/bin/python -m pip install --quiet --no-deps --target target/ptxas/$$tool $$tool || exit 1; done
	touch $@

$(BUNDLE_VENV)/.ready: tests/cuda/bundle/requirements.txt
	$(PYTHON) -m venv $(BUNDLE_VENV)
	$(BUNDLE_VENV)/bin/python -m pip install --quiet -r tests/cuda/bundle/requirements.txt
	touch $@

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

fuzz: fuzz-rust fuzz-python ## Fuzz the C ABI, the kernels, the operators and attach/fuse, FUZZ_SECONDS (60) each

# New inputs go to target/; what is worth keeping is copied to fuzz/corpus by hand.
fuzz-rust: $(CARGO_FUZZ)
	for name in c_abi kernels; do mkdir -p target/fuzz/corpus/$$name && \
		PATH="$(CURDIR)/target/tools/bin:$$PATH" cargo +$(NIGHTLY) fuzz run --target-dir target/fuzz $$name \
		target/fuzz/corpus/$$name fuzz/corpus/$$name -- \
		-max_total_time=$(FUZZ_SECONDS) -max_len=512 -len_control=0 -print_final_stats=1 || exit 1; done

fuzz-python: build $(FUZZ_VENV)/.ready
	$(FUZZ_VENV)/bin/python fuzz/python/fuzz_operators.py $(FUZZ_SECONDS)
	$(FUZZ_VENV)/bin/python fuzz/python/fuzz_models.py $(FUZZ_SECONDS)
	mkdir -p target/fuzz/corpus/models
	$(FUZZ_VENV)/bin/python fuzz/python/fuzz_models.py --coverage target/fuzz/corpus/models fuzz/corpus/models \
		-max_total_time=$(FUZZ_SECONDS) -max_len=512 -len_control=0 -print_final_stats=1

$(CARGO_FUZZ):
	cargo install --quiet --root target/tools cargo-fuzz --version 0.13.2

$(FUZZ_VENV)/.ready: fuzz/python/requirements.txt tests/python/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/python -m pip install --quiet -r fuzz/python/requirements.txt
	$(FUZZ_VENV)/bin/python -m pip install --quiet --editable .
	touch $@

sanitize: build $(VENV)/.ready ## AddressSanitizer, UBSan, ThreadSanitizer, Valgrind and Miri (each where the machine has it)
	NIGHTLY=$(NIGHTLY) PYTHON=$(CURDIR)/$(ENV_PYTHON) tests/sanitize/run.sh

soak: build $(VENV)/.ready ## 64 threads through C and 16 runs in ONNX Runtime, SOAK_SECONDS (600); sessions and loads, SOAK_CYCLES (10000)
	$(ENV_PYTHON) tests/soak/soak.py
	$(ENV_PYTHON) tests/soak/cycles.py

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
