#!/usr/bin/env bash
# Replaces the script that flashes the card: prints why this project cannot do that.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

refuse "a card is flashed with its vendor's tools (JTAG and the bitstream), which this project does not have: see ops/cards.md, Flashing"
