#!/usr/bin/env bash
# run_server.sh [OPTION...]: runs the service in the foreground, on ASR_HOST:ASR_PORT. Options are passed to 'asr serve'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=env.sh
source "$COMPAT/yap/env.sh"

engine=$(engine_options fastconformer)
serve yap "--listen=${ASR_LISTEN:-$ASR_HOST:$ASR_PORT}" ${engine:+"$engine"} "$@"
