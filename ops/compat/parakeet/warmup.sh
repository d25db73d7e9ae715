#!/usr/bin/env bash
# warmup.sh [--file FILE] [--url URL] [--rtf N] [--frame-ms 20] [--print-partials] [--full-text]
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

run_client warmup parakeet "127.0.0.1:${PORT:-8000}" "$@"
