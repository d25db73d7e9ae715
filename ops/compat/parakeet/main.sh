#!/usr/bin/env bash
# main.sh [OPTION...]: checks, installs and starts the service in the background, and shows its log.
#
# Ctrl+C leaves the service running. A second call shows the log of the running service. Options are passed to
# 'asr serve'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

logs=${LOG_DIR:-$STATE/logs}
if ! running parakeet >/dev/null; then
    for step in 00_env_check 01_system_deps 02_python_env 03_python_deps 04_prefetch_model; do
        "$COMPAT/parakeet/steps/$step.sh"
    done
    mkdir -p "$logs"
    log=$logs/run_$(date +%Y%m%d_%H%M%S).log
    : >>"$log"
    ln -sfn -- "$(basename -- "$log")" "$logs/latest.log"
    engine=$(engine_options parakeet)
    serve_detached parakeet "$log" "--listen=${ASR_LISTEN:-0.0.0.0:${PORT:-8000}}" ${engine:+"$engine"} "$@"
    note "started; stop it with $COMPAT/parakeet/stop.sh"
fi
exec tail -n +1 -f "$logs/latest.log"
