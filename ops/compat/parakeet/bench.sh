#!/usr/bin/env bash
# bench.sh OPTION...: many sessions at once, with the running service.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

talk bench parakeet "127.0.0.1:${PORT:-8000}" --streams 32 --duration 30 --frame-ms 20 --tone "$@"
