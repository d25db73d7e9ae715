#!/usr/bin/env bash
# stop.sh [--nuke-venv]: stops the service that main.sh started. --nuke-venv removes the virtual environment too.
#
# Logs and caches are never removed.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop_and_clean parakeet "$@"
