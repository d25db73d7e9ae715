#!/usr/bin/env bash
# bench.sh OPTION...: loads the running service with many sessions.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

run_client bench parakeet "127.0.0.1:${PORT:-8000}" --streams 32 --duration 30 --frame-ms 20 --tone "$@"
