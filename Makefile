# The promises of this project to its users: setup, demo, serve, test, lint, bench, gpu-check.
# Each but gpu-check works on a fresh machine with python3 (3.11 or newer), git and make; `make setup` is done on the
# way.

ADDRESS ?= 127.0.0.1
PORT ?= 5000
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo serve test lint bench gallery gpu-check requirements

setup: .venv/ready

# uv installs the whole stack in under a minute; audiocraft comes without its dead pins.
.venv/ready: requirements.txt tests/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv==0.13.9
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -r requirements.txt -r tests/requirements.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps audiocraft==1.3.0
	touch $@

demo: .venv/ready
	script/demo

serve: .venv/ready
	ADDRESS=$(ADDRESS) PORT=$(PORT) script/serve

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/mypy script/predict
	$(BIN)/mypy script/convert-weights
	$(BIN)/mypy script/fetch-weights
	$(BIN)/mypy script/gallery
	$(BIN)/mypy script/spectrogram

bench: .venv/ready
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.audio
	$(BIN)/python -m benchmarks.demo_quality

# docs/gallery.md and its pictures.
gallery: .venv/ready
	$(BIN)/python script/gallery

requirements: .venv/ready
	script/requirements

# On a CUDA machine as it is, without the set-up above: such machines bring their own torch. First what is right, then
# how fast, whatever came out; the tables come last.
gpu-check:
	-$(PYTHON) -m pytest -q tests/test_gpu.py tests/audiocraft_ext/engine/backends/test_triton_kernels.py
	$(PYTHON) -m benchmarks.engine --size small --clips 1 4 16
	$(PYTHON) -m benchmarks.engine --size medium --clips 1 4 16
