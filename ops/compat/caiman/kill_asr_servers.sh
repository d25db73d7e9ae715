#!/usr/bin/env bash
# Stops the server that start_asr_server.sh started.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop caiman
