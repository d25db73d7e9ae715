#!/usr/bin/env bash
# bench.sh OPTION...: loads the running service with many sessions.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

run_client bench yap "127.0.0.1:${ASR_PORT:-8000}" --n 20 --concurrency 5 --frame-ms 20 "$@"
