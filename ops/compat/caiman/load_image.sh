#!/usr/bin/env bash
# Replaces 'docker load -i docker-asr-server.tgz'. There is no image to load.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

refuse "there is no Docker image of this service yet: 'make -C $ROOT serve' installs and starts it"
