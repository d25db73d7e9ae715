#!/usr/bin/env bash
# Downloads the engine's model to HF_HOME. The embedded model needs no download.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

if [[ -z ${ASR_SERVE_ENGINE:-} ]] && is_usable parakeet; then
    REPO=${HF_REPO_ID:-nvidia/parakeet-tdt-0.6b-v3} "$(program python)" -c 'import os, huggingface_hub as hub; hub.snapshot_download(os.environ["REPO"])' ||
        note "the model could not be downloaded now; the worker will try again"
else
    note "nothing to download: the embedded model is part of the installation"
fi
