#!/usr/bin/env bash
# 05_run_server.sh [OPTION...]: runs the service in the foreground, on PORT (8000). Options are passed to 'asr serve'.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

engine=$(engine_options parakeet)
serve parakeet "--listen=${ASR_LISTEN:-0.0.0.0:${PORT:-8000}}" ${engine:+"$engine"} "$@"
