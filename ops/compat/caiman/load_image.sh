#!/usr/bin/env bash
# In place of 'docker load -i docker-asr-server.tgz': there is no image to load.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

refuse "there is no Docker image of this service yet: 'make -C $ROOT serve' installs and starts it"
