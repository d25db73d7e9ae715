#!/usr/bin/env bash
# Installs the project's virtual environment with all its packages.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

[[ -x $VENV/bin/asr ]] || install_project
