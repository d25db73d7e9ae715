#!/usr/bin/env bash
# stop.sh [--nuke-venv]: ends what start.sh has started. The environment stays unless asked; other caches always do.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop_and_clean moonshine "$@"
