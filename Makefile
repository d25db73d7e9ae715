# asr-pool: one command each. `make serve` and `make test` are all a new machine needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(PIP) --require-hashes --no-deps
UV     := .venv-uv
LOCK   ?= requirements
TORCH  ?= -r requirements/torch.txt
ARGS   ?=
SEEDS  ?= 200
MINUTES ?= 5
PROFILE ?= mixed
SEED   ?= 1
TIMES ?= 50
CASES ?= 1000000
HOURS ?= 1
SPEECH ?= tests/data
PEER   := ops/bench/peers/sherpa
SCENARIOS ?= 100x100ms 400x100ms-together 200x20ms moonshine-8

.PHONY: serve test test-floor test-newest lock check format docs sim nemesis losses stops soak floods fuzz golden wer bench bench-peer bench-moonshine bench-engines bench-cards inventory install-systemd clean

serve: $(VENV)/.installed
	@exec $(BIN)/asr serve $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

# The suite on the lowest and on the newest versions that setup.cfg allows, in environments of their own.
test-floor: UPGRADE := --upgrade --resolution lowest-direct
test-newest: UPGRADE := --upgrade
test-floor test-newest: test-%:
	@mkdir -p $(VENV)-$*/lock
	$(MAKE) lock LOCK=$(VENV)-$*/lock ARGS='$(UPGRADE)'
	$(MAKE) test LOCK=$(VENV)-$*/lock VENV=$(VENV)-$*

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m asr_ops.docs --check

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The diagrams in ARCHITECTURE.md, from the transition tables.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m asr_ops.docs

sim: $(VENV)/.installed-dev
	$(BIN)/python -m tests.sim --seeds $(SEEDS) $(ARGS)

# Faults on real processes: see tests/nemesis.
nemesis: $(VENV)/.installed-dev
	$(BIN)/python -m tests.nemesis --profile $(PROFILE) --minutes $(MINUTES) --seed $(SEED) $(ARGS)

# Words lost of 1,000, for each dialect and fault: see tests/nemesis/losses.py.
losses: $(VENV)/.installed-dev
	$(BIN)/python -m tests.nemesis.losses --seed $(SEED) $(ARGS)

# Stops a pool under speaking sessions of every dialect, and compares their texts with what they had sent.
stops: $(VENV)/.installed-dev
	$(BIN)/python -m tests.nemesis.stops --times $(TIMES) --seed $(SEED) $(ARGS)

# Steady mixed load, for leaks and drift. Before a release: HOURS=8, and ARGS='--connects 100000'.
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.nemesis.soak --hours $(HOURS) --seed $(SEED) $(ARGS)
# Changed bytes for everything that reads what other processes and clients send.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(SEED) $(ARGS)

# What sessions in real time feel of clients that send as fast as they can: see tests/floods.
floods: $(VENV)/.installed-dev
	$(BIN)/python -m tests.floods $(ARGS)

golden: $(VENV)/.installed-dev
	$(BIN)/python -m tests.frontends.golden --rewrite
	$(BIN)/python -m tests.e2e.golden_live --rewrite

wer: $(VENV)/.installed-dev
	$(BIN)/python -m asr_ops.wer $(SPEECH) $(ARGS)

# The short set, under two minutes. A run that was not clean stops it.
bench: $(VENV)/.installed-dev
	@set -e; for name in $(SCENARIOS); do \
		$(BIN)/asr bench --history --scenario ops/bench/scenarios/$$name.toml $(ARGS); done

# Beside the C++ server of sherpa-onnx, whose packages stay in an environment of their own.
bench-peer: $(VENV)/.installed-dev $(PEER)/.venv/.installed
	$(BIN)/python $(PEER)/run.py $(ARGS)

$(PEER)/.venv/.installed: $(PEER)/requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m venv $(PEER)/.venv
	$(PEER)/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Beside moonshine-voice's own streaming, on the same model.
bench-moonshine: $(VENV)/.installed-dev
	$(BIN)/python ops/bench/peers/moonshine_voice/run.py $(ARGS)

# FastConformer beside NeMo and sherpa-onnx.
bench-engines: $(VENV)/.installed-dev $(PEER)/.venv/.installed
	$(BIN)/python ops/bench/engines/run.py $(ARGS)

# The card's simulator beside torch, then as a card of 2,000 streams.
bench-cards: $(VENV)/.installed-dev
	$(BIN)/python ops/bench/cards.py speed
	$(BIN)/python ops/bench/cards.py timing

inventory: $(VENV)/.installed-dev
	$(BIN)/python -m tests.inventory $(ARGS)

# Units of systemd; DESTDIR, PREFIX, BINDIR (where asr-worker lies) and DEVICES: see ops/systemd.
install-systemd:
	ops/systemd/install.sh

# Writes the lock from setup.cfg (ops/adr/0015). What is in it stays; ARGS=--upgrade takes the newest of everything,
# ARGS='--upgrade-package NAME' the newest of one package.
COMPILE = $(UV)/bin/uv pip compile --quiet --config-file requirements/uv.toml --python $(UV)/bin/python \
	--universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url \
	--no-emit-package torch --constraints requirements/torch.txt --custom-compile-command 'make lock'

lock: $(UV)/.installed
	$(COMPILE) setup.cfg requirements/build.in --all-extras $(ARGS) --output-file $(LOCK)/dev.txt
	$(COMPILE) setup.cfg requirements/build.in --constraints $(LOCK)/dev.txt --output-file $(LOCK)/base.txt

clean:
	rm -rf $(VENV) $(VENV)-floor $(VENV)-newest $(UV) $(PEER)/.venv build dist *.egg-info

# make VENV/bin/python, for any environment. Only one that does not exist is made.
%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $*

$(UV)/.installed: requirements/uv.txt | $(UV)/bin/python
	$(UV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.installed: setup.cfg setup.py pyproject.toml $(LOCK)/base.txt | $(VENV)/bin/python
	$(LOCKED) -r $(LOCK)/base.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# With the packages of every engine. One of them is a source archive: what builds it is locked too.
# A torch of this release that is there already stays, whatever it was built for.
$(VENV)/.installed-dev: $(VENV)/.installed $(LOCK)/dev.txt requirements/torch.txt
	$(LOCKED) --no-build-isolation -r $(LOCK)/dev.txt
	$(PIP) $(TORCH)
	@touch $@
