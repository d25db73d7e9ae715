#!/usr/bin/env bash
# load_test.sh OPTION...: many streams at once. In place of 'cargo run --example load_test_websocket'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

bench --dialect amira "$@"
