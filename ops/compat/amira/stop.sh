#!/usr/bin/env bash
# Ends what start.sh has started.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop amira
