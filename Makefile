# The commands of this project. Each but gpu-check works on a fresh machine with python3 (3.11 or newer), git and make, and
# runs `make setup` if needed.

ADDRESS ?= 127.0.0.1
PORT ?= 5000
REPLICAS ?= 2
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo serve web train-serve finetune cluster test test-slow lint bench gallery gpu-aot gpu-check requirements

setup: .venv/ready

# uv installs the whole stack in under a minute; audiocraft comes without its dead pins. pydub needs audioop, which Python
# 3.13 dropped; requirements.txt has no markers (script/requirements), so its replacement stands here.
.venv/ready: requirements.txt tests/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv==0.13.9
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -r requirements.txt -r tests/requirements.txt \
		"audioop-lts==0.2.2; python_version >= '3.13'"
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps audiocraft==1.3.0
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/ready
	script/demo

serve: .venv/ready
	ADDRESS=$(ADDRESS) PORT=$(PORT) script/serve

# POST /trainings instead of /predictions: cog's server does one of both.
train-serve: .venv/ready
	ADDRESS=$(ADDRESS) PORT=$(PORT) script/serve train

# Fine-tuning from start to sound, on the embedded checkpoint: five minutes on two cores.
finetune: .venv/ready
	script/finetune

# The page for musicians and Replicate's API, at port 5001, beside the server, or beside the one at TARGET.
web: .venv/ready
	ADDRESS=$(ADDRESS) PORT=$(PORT) TARGET=$(TARGET) script/web

# Several servers behind one address (docs/cluster.md); Ray has an environment of its own, and the servers keep theirs.
cluster: .venv/ready .venv-cluster/ready
	.venv-cluster/bin/python -m deploy --replicas $(REPLICAS) --address $(ADDRESS) --port $(PORT)

.venv-cluster/ready: deploy/requirements.txt | .venv/ready
	test -x .venv-cluster/bin/python || $(PYTHON) -m venv .venv-cluster
	VIRTUAL_ENV=.venv-cluster $(BIN)/uv pip install --quiet -r deploy/requirements.txt
	touch $@

# Every part's correctness: 5 to 12 minutes on two cores. One thread per worker: with two the workers'
# threads would wait for each other.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadscope

# Servers under faults, matrices, fuzzing, the tools, the README's commands: one at a time, since some measure time.
test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/mypy script/musicgen
	$(BIN)/mypy script/predict
	$(BIN)/mypy script/train
	$(BIN)/mypy script/compile-kernels
	$(BIN)/mypy script/convert-weights
	$(BIN)/mypy script/fetch-weights
	$(BIN)/mypy script/gallery
	$(BIN)/mypy script/gpu-aot
	$(BIN)/mypy script/spectrogram
	$(BIN)/mypy script/check-words
	$(BIN)/python script/check-words

bench: .venv/ready
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.audio
	$(BIN)/python -m benchmarks.demo_quality

# docs/gallery.md, its pictures and samples.
gallery: .venv/ready
	$(BIN)/python script/gallery

requirements: .venv/ready
	script/requirements

# The CUDA kernels' registers, spills and launches, without a GPU; fails on a spill and on more launches than a limit.
gpu-aot: .venv/ready
	$(BIN)/python script/gpu-aot --output benchmarks/results/gpu_aot.md

# On a CUDA machine with its own torch and Triton, without the set-up above; installs the wheels in .whl, if there are any.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check
