# Everything a newcomer or CI needs; `make` alone lists it. What is already there is not done again.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
export CUDA ?= auto

# A stamp stands for an installation of one kind; each new runtime installation removes all older stamps.
RUNTIME := .venv/.installed-cuda-$(CUDA)
DEV := .venv/.installed-dev

.PHONY: help install run dev test soak check format bench bench-cloud protos clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[36mmake %-8s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(RUNTIME) ## Make .venv with the autoglm command (CUDA=1: engine with CUDA)

run: export AUTOGLM_MQTT_URL ?= embedded
run: $(RUNTIME) ## Install, then serve on 127.0.0.1:8080 with an MQTT broker inside
	@exec .venv/bin/autoglm serve

test: $(DEV) ## Install what tests need, then run them (ARGS="-k name" for some)
	.venv/bin/pytest -n 2 --dist loadfile $(ARGS)

soak: $(DEV) ## Kill node and controller at random moments under load for 10 minutes (ARGS=60: an hour)
	AUTOGLM_SOAK_MINUTES=$(or $(ARGS),10) .venv/bin/pytest tests/cloud/test_kills.py

check: $(DEV) ## Formatting, lint and strict typing
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: $(DEV) ## Format the code and mend what lint can mend
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: $(DEV) ## Measure this agent beside its peers (ARGS="tensors", tiny, share, turns; "--help" for choices)
	.venv/bin/python -m bench $(ARGS)

bench-cloud: $(DEV) ## Measure the controller with a simulated fleet (ARGS="--nodes 1000"; "--help" for choices)
	.venv/bin/python -m bench cloud $(ARGS)

protos: $(DEV) ## Make the gRPC door's messages anew from its oip.proto
	.venv/bin/pip install --quiet grpcio-tools==1.81.1
	.venv/bin/python -m grpc_tools.protoc -I agent/doors/grpc --python_out=agent/doors/grpc --pyi_out=agent/doors/grpc oip.proto

clean: ## Remove .venv and caches; the shelf stays
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(RUNTIME): pyproject.toml scripts/install.sh scripts/toolchain.sh
	@scripts/install.sh
	@rm -f .venv/.installed-* && touch $@

$(DEV): $(RUNTIME)
	@scripts/install.sh dev
	@touch $@
