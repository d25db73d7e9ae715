#!/usr/bin/env bash
# Installs what run.sh needs.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

install_project
