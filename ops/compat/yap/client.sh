#!/usr/bin/env bash
# client.sh --file FILE [--server HOST:PORT] [--secure] [--rtf 1] [--full-text] [--print-partials]
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

run_client client yap "127.0.0.1:${ASR_PORT:-8000}" "$@"
