#!/usr/bin/env bash
# Is there a GPU? Only a note for the embedded model; an error where ASR_DEVICE asks for one.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

if ! command -v nvidia-smi >/dev/null; then
    [[ ${ASR_DEVICE:-cpu} != cuda* ]] || refuse "ERROR: nvidia-smi not found: install the NVIDIA driver first"
    say "nvidia-smi not found: the service will run on the CPU"
fi
