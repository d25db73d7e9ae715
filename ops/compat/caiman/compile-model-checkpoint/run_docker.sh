#!/usr/bin/env bash
# run_docker.sh IN OUT
#
# Compiles a hardware checkpoint for a card, or for its simulator.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

(($# == 2)) || refuse "name a hardware checkpoint and the file to write" 2
exec "$(program asr-compile)" "$1" "$2"
