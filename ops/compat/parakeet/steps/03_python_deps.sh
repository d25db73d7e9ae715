#!/usr/bin/env bash
# The project's virtual environment, with everything in it.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

[[ -x $VENV/bin/asr ]] || install_project
