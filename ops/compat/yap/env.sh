# The document's settings, to be edited and sourced before run_server.sh. What each means here: ../environment.md
# shellcheck shell=bash
export ASR_HOST=${ASR_HOST:-0.0.0.0}
export ASR_PORT=${ASR_PORT:-8000}
