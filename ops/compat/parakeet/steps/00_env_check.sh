#!/usr/bin/env bash
# Checks for a GPU. Without one it prints a note, or fails if ASR_DEVICE is cuda.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

if ! command -v nvidia-smi >/dev/null; then
    [[ ${ASR_DEVICE:-cpu} != cuda* ]] || refuse "ERROR: nvidia-smi not found: install the NVIDIA driver first"
    note "nvidia-smi not found: the service will run on the CPU"
fi
