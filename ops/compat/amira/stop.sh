#!/usr/bin/env bash
# Stops the service that start.sh started.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop amira
