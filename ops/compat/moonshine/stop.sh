#!/usr/bin/env bash
# stop.sh [--nuke-venv]: stops the service that start.sh started. --nuke-venv removes the virtual environment too.
#
# Caches outside the environment are never removed.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop_and_clean moonshine "$@"
