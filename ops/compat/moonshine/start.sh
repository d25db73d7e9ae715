#!/usr/bin/env bash
# start.sh [OPTION...]: runs the service in the foreground, on ASR_HOST:ASR_PORT. Options are passed to 'asr serve'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

serve moonshine "--listen=${ASR_LISTEN:-${ASR_HOST:-0.0.0.0}:${ASR_PORT:-8000}}" "$@"
