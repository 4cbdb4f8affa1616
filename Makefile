# Thin: every target is a command of tools/dev.py, which also serves where there is no make.
# Arguments are passed on: make test ARGS="-k adam"

PYTHON ?= python3
COMMANDS = demo test test-fast lint format types docs build readme ci bench check-torch release

.PHONY: help $(COMMANDS)

help:
	@$(PYTHON) tools/dev.py help

$(COMMANDS):
	@$(PYTHON) tools/dev.py $@ $(ARGS)
