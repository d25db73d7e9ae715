#!/usr/bin/env bash
# Fetches the engine's model into HF_HOME; the embedded model needs no fetching.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

if [[ -z ${ASR_SERVE_ENGINE:-} ]] && is_usable parakeet; then
    REPO=${HF_REPO_ID:-nvidia/parakeet-tdt-0.6b-v3} "$(program python)" -c 'import os, huggingface_hub as hub; hub.snapshot_download(os.environ["REPO"])' ||
        say "the model could not be fetched now; the worker tries again"
else
    say "nothing to fetch: the embedded model came with the installation"
fi
