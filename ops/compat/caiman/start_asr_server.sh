#!/usr/bin/env bash
# start_asr_server.sh [--rnnt-checkpoint PATH] [--cpu-backend] [--license-dir DIR] [--card-id N] [--no-state-resets] [-- OPTION...]
#
# Replaces CAIMAN-ASR's server: runs in the foreground, on port 3030. Options after -- are passed to 'asr serve'.
# --card-id may be repeated: one service uses several cards, so one server per card is not necessary.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

checkpoint="" backend=card cards=() worker=() more=()
while (($#)); do
    case $1 in
    --rnnt-checkpoint) checkpoint=${2:?--rnnt-checkpoint needs a path} && shift ;;
    --cpu-backend) backend=cpu ;;
    --license-dir) worker+=("--worker-arg=--license-dir=${2:?--license-dir needs a directory}") && shift ;;
    --card-id) cards+=("--device=card:${2:?--card-id needs a number}") && shift ;;
    --no-state-resets) worker+=(--worker-arg=--no-state-resets) ;;
    --) shift && more=("$@") && break ;;
    *) refuse "unknown option $1" 2 ;;
    esac
    shift
done

listen=--listen=${ASR_LISTEN:-0.0.0.0:3030}
if [[ -n ${ASR_SERVE_ENGINE:-} ]]; then
    serve caiman "$listen" "${more[@]}"
elif [[ -z $checkpoint ]]; then
    [[ $backend == cpu ]] || refuse "a card needs --rnnt-checkpoint; the embedded model needs --cpu-backend" 2
    serve caiman "$listen" "${more[@]}"
fi
is_usable card || refuse "the engine 'card' is not usable here, and only it runs checkpoints: see asr-worker --list-engines"
if [[ $backend == cpu ]]; then
    cards=(--device=cpu)
elif ((${#cards[@]} == 0)); then
    cards=(--device=card:0)
fi
serve caiman "$listen" --engine=card "--workers=${#cards[@]}" "${cards[@]}" \
    "--worker-arg=--rnnt-checkpoint=$checkpoint" "${worker[@]}" "${more[@]}"
