#!/usr/bin/env bash
# bench.sh OPTION...: many sessions at once.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

bench --dialect parakeet "$@"
