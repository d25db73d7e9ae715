#!/usr/bin/env bash
# stop.sh [--nuke-venv]: ends what main.sh has started. Logs and caches stay; so does the environment unless asked.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop_and_clean parakeet "$@"
