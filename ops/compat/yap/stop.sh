#!/usr/bin/env bash
# stop.sh [--nuke-venv]: ends what run_server.sh has started. Caches outside the environment stay.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop_and_clean yap "$@"
