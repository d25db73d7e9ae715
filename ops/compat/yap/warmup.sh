#!/usr/bin/env bash
# warmup.sh [FILE] [RTF]: RTF is 1 to 10, by default 10. A higher value is refused with exit code 2.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

run_client warmup yap "${ASR_SERVER:-127.0.0.1:${ASR_PORT:-8000}}" ${1:+--file "$1"} ${2:+--rtf "$2"} --full-text
