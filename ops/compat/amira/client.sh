#!/usr/bin/env bash
# client.sh --file FILE [--model amira] [--full-text] ...: sends one stream. Replaces 'cargo run --example simple_client'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

run_client client amira "127.0.0.1:${AMIRA_SERVER_PORT:-8057}" --model amira "$@"
