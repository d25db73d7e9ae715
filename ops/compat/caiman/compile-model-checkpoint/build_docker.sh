#!/usr/bin/env bash
# Installs what run_docker.sh needs; there is no Docker image.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

install_project
install_extra card
