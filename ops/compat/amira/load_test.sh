#!/usr/bin/env bash
# load_test.sh OPTION...: many streams at once, with the running service. In place of 'cargo run --example load_test_websocket'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

talk bench amira "127.0.0.1:${AMIRA_SERVER_PORT:-8057}" "$@"
