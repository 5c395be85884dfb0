# Two commands do all set-up: `make demo` and `make test`. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin

# Every command of the tests would otherwise compile the package's modules again.
unexport PYTHONDONTWRITEBYTECODE

# Files in their own order: the many short ones come last, and fill both processes to the end.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# What the C++ part is built and tested with, and Debian's packages that have it.
CPP_TOOLS := cmake ninja g++ clang++ clang-tidy clang-format valgrind doxygen
CPP_PACKAGES := ccache cmake ninja-build g++ clang clang-tidy clang-format libclang-rt-14-dev valgrind doxygen \
	pkg-config dpkg-dev file libgtest-dev nlohmann-json3-dev nettle-dev libjpeg-dev libpng-dev

# Compiled files are kept by their content, where ccache is at hand, so that a clone of the same
# sources builds in seconds.
ifneq ($(shell command -v ccache),)
export CMAKE_C_COMPILER_LAUNCHER := ccache
export CMAKE_CXX_COMPILER_LAUNCHER := ccache
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1
export CCACHE_SLOPPINESS := pch_defines,time_macros
endif
CPP_HEADERS := nlohmann/json.hpp gtest/gtest.h nettle/sha2.h jpeglib.h png.h zlib.h
CPP_MISSING = $(strip $(foreach tool,$(CPP_TOOLS),$(if $(shell command -v $(tool)),,$(tool))) \
	$(foreach header,$(CPP_HEADERS),$(if $(shell c++ -E -include $(header) -x c++ /dev/null 2>&1 >/dev/null),$(header),)))

.PHONY: demo test check lint cpp cpp-build cpp-tools cpp-packages cpp-left-out cpp-found form sanitize asan fuzz tsan \
	valgrind tidy benchmark clean

demo: .venv/demo-installed
	$(BIN)/tame-deploy export --backbone demo --output build/demo --overwrite
	$(BIN)/tame-deploy evaluate build/demo --data demo-held-out:300 --metrics ad-ic,localisation,entropy --output build/demo-scores --overwrite
	$(BIN)/tame-deploy explain build/demo tame_deploy/data/pictures --output build/demo-explained --overwrite --open

# The C++ part is left out where its tools are missing; Python's tests of it skip then. With --jobs 2
# all but pytest itself, which has processes of its own, runs side by side.
test: lint $(if $(CPP_MISSING),cpp-left-out,cpp form sanitize)
	$(PYTEST)

# For the loop while writing: style, types, import rules and the quick tests, within a minute.
check: lint
	$(PYTEST) -m "not slow" tests/unit tests/golden tests/attacks

lint: .venv/test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

cpp-tools:
	@test -z "$(CPP_MISSING)" || { echo "missing: $(CPP_MISSING). On Debian: apt-get install $(CPP_PACKAGES)"; exit 1; }

cpp-packages:
	@echo $(CPP_PACKAGES)

cpp-left-out:
	@echo "libtame is neither built nor tested: $(CPP_MISSING) missing. On Debian: apt-get install $(CPP_PACKAGES)"

ASAN_TESTS := tame-api-test tame-owners-double-test tame-preparing-test tame-artifact-test tame-picture-test
FUZZERS := tame-fuzz-manifest tame-fuzz-npz tame-fuzz-picture
TSAN_TESTS := tame-threads-test tame-preparing-test

# libtame as it is shipped, and under sanitizers, where each target is one file to the compiler. So is
# all with CPP_OPTIONS="$(CPP_IN_ONE)": half of the time for a first build, and more for the next one.
CPP_OPTIONS ?=
CPP_IN_ONE := -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=0
cpp-build: cpp-tools
	cd cpp && cmake --preset release $(CPP_OPTIONS) && cmake --preset asan && cmake --preset tsan
	cmake --build build/cpp
	cmake --build build/cpp-asan --target $(ASAN_TESTS) $(FUZZERS)
	cmake --build build/cpp-tsan --target $(TSAN_TESTS)

# The tests of libtame run an artifact of the demo and an ONNX Runtime. What is there already saves
# making .venv: TAME_TEST_ARTIFACT=DIR names an artifact, and ONNX Runtime is then the one that
# TAME_ONNXRUNTIME_LIBRARY names, or that of the system or of python3.
ifdef TAME_TEST_ARTIFACT
CPP_ARTIFACT := $(abspath $(TAME_TEST_ARTIFACT))
CPP_READY := cpp-found
else
CPP_ARTIFACT := $(CURDIR)/build/cpp-artifact/demo
CPP_READY := build/cpp-artifact/demo/manifest.json
endif
CPP_PATH := PATH="$(CURDIR)/$(BIN):$$PATH"
CPP_TEST := $(CPP_PATH) TAME_TEST_ARTIFACT="$(CPP_ARTIFACT)" ctest --output-on-failure --parallel 4 --test-dir

cpp: cpp-build $(CPP_READY)
	$(CPP_TEST) build/cpp

sanitize: asan fuzz tsan valgrind

asan: cpp-build $(CPP_READY)
	$(CPP_TEST) build/cpp-asan --no-tests=error --tests-regex '^($(subst $() ,|,$(ASAN_TESTS))|fuzz-corpus.*|Dangling.*)$$'

fuzz: cpp-build
	cpp/fuzz/fuzz.sh build/cpp-asan 2

tsan: cpp-build $(CPP_READY)
	$(CPP_TEST) build/cpp-tsan --no-tests=error --tests-regex '^($(subst $() ,|,$(TSAN_TESTS)))$$'

valgrind: cpp-build $(CPP_READY)
	$(CPP_PATH) cpp/tests/valgrind.sh build/cpp "$(CPP_ARTIFACT)"

cpp-found:
	@test -f "$(CPP_ARTIFACT)/manifest.json" || { echo "TAME_TEST_ARTIFACT is $(TAME_TEST_ARTIFACT), which \
	has no manifest.json; expected what tame-deploy export --backbone demo -o DIR makes"; exit 1; }
	@test -n "$$TAME_ONNXRUNTIME_LIBRARY" || PATH="$$PATH:/sbin" ldconfig -p 2>/dev/null | grep -q 'libonnxruntime\.so' \
	|| $(CPP_PATH) python3 -c 'import importlib.util as found; exit(not found.find_spec("onnxruntime"))' \
	|| { echo "found no ONNX Runtime for the tests; set TAME_ONNXRUNTIME_LIBRARY to libonnxruntime.so, \
	or pip install onnxruntime"; exit 1; }

form: cpp-tools
	clang-format --dry-run -Werror $$(git ls-files 'cpp/*.[ch]pp' 'cpp/*.[ch]' 'benchmarks/cpp/*.cpp')
	mkdir -p build && doxygen cpp/Doxyfile

# Takes some minutes; what it finds is mended before it is committed. Nothing is built for it: clang
# cannot read the headers that GCC compiled beforehand.
tidy: cpp-tools
	cd cpp && cmake --preset release -B ../build/cpp-tidy -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON
	git ls-files 'cpp/src/*.cpp' | xargs -P 2 -n 6 clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option -p build/cpp-tidy

build/cpp-artifact/demo/manifest.json: .venv/test-installed
	$(BIN)/tame-deploy export --backbone demo --output build/cpp-artifact/demo --overwrite

benchmark: .venv/test-installed
	$(BIN)/python benchmarks/fusion.py
	$(BIN)/python benchmarks/footprint.py
	$(BIN)/python benchmarks/training.py

clean:
	rm -rf build .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo-installed: .venv/bin/python pyproject.toml
	$(BIN)/pip install --editable '.[cpu,export,evaluate]'
	touch $@

.venv/test-installed: .venv/bin/python pyproject.toml
	$(BIN)/pip install --no-compile --editable '.[cpu,openvino,export,timm,transformers,train,evaluate,quantize,tensorrt-rtx,video,parquet,serve,client,traces,dev]'
	touch $@
