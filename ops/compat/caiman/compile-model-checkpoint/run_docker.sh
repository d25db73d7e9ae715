#!/usr/bin/env bash
# In place of CAIMAN-ASR's compiler for checkpoints, which is not public.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

refuse "checkpoints are compiled for a card by its vendor's compiler, which this project does not have"
