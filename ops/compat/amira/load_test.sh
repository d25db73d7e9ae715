#!/usr/bin/env bash
# load_test.sh OPTION...: loads the running service with many streams. Replaces 'cargo run --example load_test_websocket'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

run_client bench amira "127.0.0.1:${AMIRA_SERVER_PORT:-8057}" "$@"
