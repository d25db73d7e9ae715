# The document's settings. Edit this file and source it before run_server.sh. ../environment.md describes each setting.
# shellcheck shell=bash
export ASR_HOST=${ASR_HOST:-0.0.0.0}
export ASR_PORT=${ASR_PORT:-8000}
