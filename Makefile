PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check fuzz clean

# Two marks, so that `make demo` installs no test tools and a changed pyproject.toml installs again.
$(VENV)/demo.mark: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e '.[cpu,export,page]'
	@$(BIN)/python -c "from dkcam.runtime.kernels import why_not_native as why; print('note: ' + why() if why() else 'C++ kernels: built')"
	touch $@

$(VENV)/test.mark: $(VENV)/demo.mark
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

demo: $(VENV)/demo.mark
	$(BIN)/dk-export src/dkcam/models/demo.pt -o $(VENV)/demo.onnx
	$(BIN)/dk-run --model $(VENV)/demo.onnx --source demo: --headless --sink demo.mp4
	@echo "open demo.mp4"

test: $(VENV)/test.mark
	$(BIN)/python -m pytest

fuzz: $(VENV)/test.mark
	$(BIN)/python -m tests.runtime.live.fuzz --seconds 60

check: $(VENV)/test.mark
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo.mp4
