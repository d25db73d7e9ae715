#!/usr/bin/env bash
# run.sh [WAV]: sends a LibriVox clip, or your own file, to the server and prints the text.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

clip=${1:-$ROOT/tests/data/librivox_ps__sense_and_sensibility_01_austen_64kb-0880.wav}
run_client client caiman "${ASR_SERVER:-127.0.0.1:3030}" --full-text --frame-ms 60 --file "$clip"
