#!/usr/bin/env bash
# run.sh [WAV]: speaks a LibriVox clip, or your own file, to the server and prints what it understands.
# shellcheck source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"

clip=${1:-$ROOT/tests/data/librivox_ps__sense_and_sensibility_01_austen_64kb-0880.wav}
talk client caiman "${ASR_SERVER:-127.0.0.1:3030}" --full-text --frame-ms 60 --file "$clip"
