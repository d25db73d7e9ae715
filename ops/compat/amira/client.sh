#!/usr/bin/env bash
# client.sh --file FILE [--model amira] [--full-text] ...: one stream. In place of 'cargo run --example simple_client'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

talk client amira "127.0.0.1:${AMIRA_SERVER_PORT:-8057}" --model amira "$@"
