PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0

# make LOCKED=1 test, as CI does: exactly what locks/ names, by hash. Without it pip takes the newest that pyproject.toml allows.
MARK := $(VENV)/$(if $(LOCKED),locked,test).mark

.PHONY: demo test slow check fuzz clean lock audit dist sbom

# Two marks, so that `make demo` installs no test tools and a changed pyproject.toml installs again.
$(VENV)/demo.mark: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[cpu,export,page]'
	@$(BIN)/python -c "from dkcam.runtime.kernels import why_not_native as why; print('note: ' + why() if why() else 'C++ kernels: built')"
	touch $@

$(VENV)/test.mark: $(VENV)/demo.mark
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

# torch has no line in a lock (docs/decisions.md says why) and comes last, so that what it needs is there already, checked by its hash.
# --no-deps: a lock is whole, and pip would look for torch; pip check finds whatever is missing all the same.
$(VENV)/locked.mark: pyproject.toml locks/build.txt locks/test.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r locks/build.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --no-build-isolation -r locks/test.txt
	$(BIN)/python -m pip install --quiet $(TORCH)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch $@

demo: $(VENV)/demo.mark
	$(BIN)/dk-export src/dkcam/models/demo.pt -o $(VENV)/demo.onnx
	$(BIN)/dk-run --model $(VENV)/demo.onnx --source demo: --headless --sink demo.mp4
	@echo "open demo.mp4"

test: $(MARK)
	$(BIN)/python -m pytest

slow: $(MARK)
	$(BIN)/python -m pytest -m slow

fuzz: $(MARK)
	$(BIN)/python -m tests.runtime.live.fuzz --seconds 60

check: $(MARK)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo.mp4 dist

# The tools of the supply chain live in a venv of their own, from a lock of their own.
TOOLS := $(VENV)/tools
$(TOOLS)/mark: locks/tools.txt locks/build.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --require-hashes -r locks/build.txt -r locks/tools.txt
	touch $@

# The newest versions that pyproject.toml allows, for every Python and machine at once; nothing younger than a week, since what is
# planted in a registry is mostly noticed within days (make lock YOUNGEST="0 days" for a fix that cannot wait). No index is named.
YOUNGEST ?= 1 week
RESOLVE = $(TOOLS)/bin/uv --no-config pip compile --quiet --upgrade --universal --python-version 3.10 --no-python-downloads \
	--generate-hashes --custom-compile-command "make lock" --exclude-newer "$(YOUNGEST)"
lock: $(TOOLS)/mark
	$(RESOLVE) locks/build.in -o locks/build.txt
	$(RESOLVE) locks/tools.in -c locks/build.txt -o locks/tools.txt
	$(RESOLVE) pyproject.toml --extra cpu --extra page -o locks/runtime.txt
	$(RESOLVE) pyproject.toml --extra test -c locks/runtime.txt -c locks/build.txt --excludes locks/no-cuda.in --no-emit-package torch -o locks/test.txt

# Known vulnerabilities of everything that is locked, and of torch. --strict: what the service does not know is no pass.
audit: $(TOOLS)/mark
	echo "$(TORCH)" > $(TOOLS)/torch.txt
	for list in locks/build.txt locks/tools.txt locks/runtime.txt locks/test.txt $(TOOLS)/torch.txt; do \
		echo "$$list" && $(TOOLS)/bin/pip-audit --strict --disable-pip --no-deps -r $$list || exit 1; done

dist: $(TOOLS)/mark
	rm -rf dist
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(TOOLS)/bin/python -m build --no-isolation

# What the wheel runs with (extras cpu and page), as CycloneDX: installed as the container does, then listed.
INTO_SBOM := $(TOOLS)/bin/python -m pip --python $(VENV)/sbom/bin/python
sbom: dist
	$(PYTHON) -m venv --clear --without-pip $(VENV)/sbom
	$(INTO_SBOM) install --quiet --require-hashes --only-binary :all: -r locks/runtime.txt
	$(INTO_SBOM) install --quiet --no-deps --no-index dist/*.whl
	$(INTO_SBOM) check
	$(TOOLS)/bin/cyclonedx-py environment $(VENV)/sbom/bin/python --pyproject pyproject.toml --output-reproducible -o dist/dkcam.cdx.json
