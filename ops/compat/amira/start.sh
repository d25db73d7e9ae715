#!/usr/bin/env bash
# start.sh [OPTION...]: runs the service in the foreground, on AMIRA_SERVER_HOST:AMIRA_SERVER_PORT.
#
# Options are passed to 'asr serve'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

host=${AMIRA_SERVER_HOST:-${SERVER_HOST:-0.0.0.0}} port=${AMIRA_SERVER_PORT:-${SERVER_PORT:-8057}}
serve amira "--listen=${ASR_LISTEN:-$host:$port}" "$@"
