#!/usr/bin/env bash
# client.sh [--file FILE] [--server HOST:PORT] [--path /webrtc] [--secure] [--rtf N] [--full-text]: uses WebRTC.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

run_client client moonshine "127.0.0.1:${ASR_PORT:-8000}" ${ASR_WEBRTC_PATH:+--path "$ASR_WEBRTC_PATH"} "$@"
