#!/usr/bin/env bash
# stop.sh [--nuke-venv]: stops the service that run_server.sh started. Caches outside the environment stay.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop_and_clean yap "$@"
