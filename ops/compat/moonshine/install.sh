#!/usr/bin/env bash
# Installs the virtual environment (VENV_PATH, PYTHON_BIN) with WebRTC. TORCH_CUDA and TORCH_VERSION add a torch wheel.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

install_project
install_extra webrtc
if [[ -n ${TORCH_CUDA:-}${TORCH_VERSION:-} ]]; then
    "$VENV/bin/python" -m pip install "torch${TORCH_VERSION:+==$TORCH_VERSION}" \
        ${TORCH_CUDA:+--index-url "https://download.pytorch.org/whl/$TORCH_CUDA"}
fi
