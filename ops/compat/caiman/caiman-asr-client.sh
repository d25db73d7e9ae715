#!/usr/bin/env bash
# caiman-asr-client.sh [--host HOST] [--port PORT] [--connect-timeout S] [--quiet] WAV...
# caiman-asr-client.sh --concurrent-connections N [--perpetual] ... WAV
#
# Sends all files at the same time, in real time. For many connections that repeat one file, it runs 'asr bench'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

host=localhost port=3030 quiet="" connections="" files=()
while (($#)); do
    case $1 in
    --host) host=${2:?--host needs a name} && shift ;;
    --port) port=${2:?--port needs a number} && shift ;;
    --connect-timeout) shift ;; # always 10 s
    --quiet) quiet=1 ;;
    --perpetual) connections=${connections:-1} ;;
    --concurrent-connections) connections=${2:?--concurrent-connections needs a number} && shift ;;
    -*) refuse "unknown option $1" 2 ;;
    *) files+=("$1") ;;
    esac
    shift
done
((${#files[@]})) || refuse "name at least one sound file" 2
if [[ -n $connections ]]; then
    ((${#files[@]} == 1)) || refuse "many connections repeat one file: name one" 2
    run_client bench caiman "$host:$port" --streams "$connections" --frame-ms 60 --file "${files[0]}"
fi
command=$(program asr)
exec {out}>&1
[[ -z $quiet ]] || exec {out}>/dev/null
pids=() failed=0
for file in "${files[@]}"; do
    "$command" client --dialect caiman --server "$host:$port" --frame-ms 60 --full-text --file "$file" >&"$out" &
    pids+=($!)
done
for pid in "${pids[@]}"; do
    wait "$pid" || failed=$?
done
exit "$failed"
