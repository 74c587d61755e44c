# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
# The MLX backend for Linux: cpu, cuda12 or cuda13. On macOS MLX brings Metal.
BACKEND ?= cpu
OLDEST_MLX = $(shell sed -n 's/^dependencies = \["mlx>=\([0-9.]*\)".*/\1/p' pyproject.toml)

VENV = .venv
BIN = $(VENV)/bin
# The packages in it pin versions of what others need, too.
CLIENTS = .venv-clients
export MPLBACKEND = Agg

# For example --steps 2 --members 1, to see that it runs.
BRAIN =
# For example --one composition 17, or --no-compile --compositions 500 --models 100.
FUZZ =
# For example --steps 2 --base-steps 2 --seeds 1.
FINE_TUNE =

.PHONY: help demo brain fine-tune test lint coverage peers clients clients-short mutants fuzz bench bench-short docs dist test-oldest reference clean

help:
	@echo "make demo         train on handwritten digits and draw pictures/digits_*.png (about 40 seconds)"
	@echo "make brain        learn from a scan of the brain and draw pictures/brain_*.png (about 3 minutes)"
	@echo "make fine-tune    fine-tune a language model by mlx-lm and draw fine_tune.png (about 4 minutes)"
	@echo "make test         the tests"
	@echo "make lint         formatting, lint and types"
	@echo "make coverage     which lines and branches of src/ no test runs"
	@echo "make peers        compare with JAX, torch, Flax, Equinox, Haiku, Keras, timm, ..."
	@echo "make clients      train and predict with models of mlx-lm, mlx-vlm, mlx-audio, ..."
	@echo "make mutants      break the source on purpose: a test must notice each fault (about 4 minutes)"
	@echo "make fuzz         random programs against a plain loop (about 15 minutes)"
	@echo "make bench        measure against all of them, and whole models (about 2 hours)"
	@echo "make bench-short  measure what the README says (under 4 minutes)"
	@echo "make docs         build the site in site/ and check its links"
	@echo "make dist         build the wheel and the sdist, and try them in an empty environment"
	@echo "make test-oldest  the tests under MLX $(OLDEST_MLX)"
	@echo "make reference    write JAX's stored masks anew"

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/test: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$(BACKEND)]" "mlx[$(BACKEND)]$(MLX)" --group dev
	@touch $@

$(VENV)/examples: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$(BACKEND),examples]"
	@touch $@

$(VENV)/fine-tune: $(VENV)/examples
	$(BIN)/python -m pip install --quiet --group fine-tune
	@touch $@

$(VENV)/peers: $(VENV)/test pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$(BACKEND),peers]"
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/without_init baal==2.1.0 pytorch-nlp==0.5.0 timm==1.0.31 torchvision==0.29.2 torch-uncertainty==0.13.0 # a few modules of each
	@touch $@

$(CLIENTS)/clients-short: pyproject.toml
	$(MAKE) $(CLIENTS)/test VENV=$(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --editable ".[$(BACKEND),clients-short]"
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps mlx-image==0.1.10 # its pins are old
	@touch $@

$(CLIENTS)/clients: $(CLIENTS)/clients-short pyproject.toml
	$(CLIENTS)/bin/python -m pip install --quiet --editable ".[$(BACKEND),clients]"
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps mlx-graphs==0.0.10 # its pins are old
	@touch $@

$(VENV)/bench: $(VENV)/peers $(VENV)/examples pyproject.toml
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

$(VENV)/docs: $(VENV)/test pyproject.toml
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

$(VENV)/dist: $(VENV)/test pyproject.toml
	$(BIN)/python -m pip install --quiet --group dist
	@touch $@

demo: $(VENV)/examples
	$(BIN)/python examples/digits.py

brain: $(VENV)/examples
	$(BIN)/python examples/brain_mri.py $(BRAIN)

fine-tune: $(VENV)/fine-tune
	$(BIN)/python examples/fine_tune.py --output fine_tune.png $(FINE_TUNE)

test: $(VENV)/test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(VENV)/test
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy

coverage: $(VENV)/test
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest --numprocesses auto --dist loadfile
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

peers: $(VENV)/peers
	$(BIN)/python -m pytest tests/peers docs/moving

# The page comes last, since mlx-lm's grad_checkpoint changes a class for good.
clients: $(CLIENTS)/clients
	$(CLIENTS)/bin/python -m pytest tests/clients docs/clients.md

clients-short: $(CLIENTS)/clients-short
	$(CLIENTS)/bin/python -m pytest tests/clients docs/clients.md

mutants: $(VENV)/test
	$(BIN)/python tests/mutants.py

fuzz: $(VENV)/test
	PYTHONPATH=tests $(BIN)/python -m fuzz.run $(FUZZ)

bench: bench-short
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/wrappers.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/uncertainty.py
	$(BIN)/python benchmarks/family.py
	$(BIN)/python benchmarks/thin.py
	$(BIN)/python benchmarks/thin_training.py

bench-short: $(VENV)/bench
	$(BIN)/python benchmarks/short.py
	$(BIN)/python benchmarks/silent_faults.py --train

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python -m pytest tests/site

dist: $(VENV)/dist
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pytest tests/dist

reference: $(VENV)/peers
	$(BIN)/python tests/reference/write_masks.py

test-oldest:
	$(MAKE) test VENV=.venv-oldest MLX="==$(OLDEST_MLX)"

clean:
	rm -rf .venv .venv-oldest .venv-clients dist site .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
