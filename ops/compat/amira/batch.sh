#!/usr/bin/env bash
# batch.sh FILE [MODEL]: sends a recording of at most 30 s in one request.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

[[ -r ${1:-} ]] || refuse "name a sound file that can be read" 2
curl --fail-with-body --silent --show-error -H 'Content-Type: application/octet-stream' --data-binary "@$1" \
    "http://${ASR_SERVER:-127.0.0.1:${AMIRA_SERVER_PORT:-8057}}/v2/decode/batch/${2:-amira}"
echo
