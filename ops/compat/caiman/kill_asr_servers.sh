#!/usr/bin/env bash
# Ends the server that start_asr_server.sh has started.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

stop caiman
