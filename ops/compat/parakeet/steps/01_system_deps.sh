#!/usr/bin/env bash
# Prints which system packages are missing. It does not install them.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

python=${PYTHON_BIN:-python3}
command -v "$python" >/dev/null || refuse "$python: command not found: apt install python3 python3-venv"
"$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' ||
    refuse "Python 3.11 or newer with venv is needed: apt install python3 python3-venv"
command -v make >/dev/null || refuse "make: command not found: apt install make"
