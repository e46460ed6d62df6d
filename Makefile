# Everything that is done to hone from a shell. Each target sets up what it needs; all are incremental and quiet when there is nothing to do.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := all
.PHONY: all setup build-all model peers demo test test-slow test-peers test-asan bench format format-check install clean

PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
MODEL := models/SmolLM2-135M-Instruct.gguf
CTEST := ctest --output-on-failure -j $(JOBS)
SOURCES = $$(git ls-files --cached --others --exclude-standard '*.cpp' '*.h' '*.inc')

all: setup               ## build/hone
	tools/build.sh release hone

setup:                   ## Debian packages and LibTorch
	tools/setup.sh

build-all: setup
	tools/build.sh release all

model: setup             ## the default model, models/SmolLM2-135M-Instruct.gguf
	tools/fetch_model.sh

peers: setup             ## the peers' Python libraries, in .deps/peers
	tools/peers.sh

demo: all model          ## SFT and GRPO of the default model on the example data, what it solves before and after each
	tools/demo.sh

test: build-all model    ## every test but the slow ones
	cd build && $(CTEST) -LE slow

test-slow: build-all model
	cd build && $(CTEST) -L slow

test-peers: all model peers  ## against transformers, TRL, tokenizers and safetensors
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false .deps/peers/bin/python -m pytest -q tests/peers

# The quarantine is small: freed memory that the sanitizer keeps counts into the peaks that tests compare.
test-asan: setup model   ## the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	tools/build.sh asan all
	export ASAN_OPTIONS=detect_leaks=0:detect_container_overflow=0:allocator_may_return_null=1:quarantine_size_mb=64 UBSAN_OPTIONS=print_stacktrace=1
	cd build-asan && $(CTEST) -LE slow

bench: build-all model peers ## hone and its peer in turn; the figures of docs/performance.md
	python3 bench/run_peers.py --peer_python .deps/peers/bin/python

format: setup
	clang-format -i $(SOURCES)

format-check: setup
	clang-format --dry-run -Werror $(SOURCES)

install: all             ## PREFIX=/usr/local
	log=$$(cmake --install build --prefix "$(PREFIX)") || { echo "$$log" >&2; exit 1; }

clean:
	rm -rf build build-debug build-asan
