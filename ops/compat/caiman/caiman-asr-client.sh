#!/usr/bin/env bash
# caiman-asr-client.sh [--host HOST] [--port PORT] [--connect-timeout S] [--quiet] WAV...
#
# Every file at the same time, in real time. Many connections that repeat their files are 'asr bench'.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

host=localhost port=3030 quiet="" files=()
while (($#)); do
    case $1 in
    --host) host=${2:?--host needs a name} && shift ;;
    --port) port=${2:?--port needs a number} && shift ;;
    --connect-timeout) shift ;; # always 10 s
    --quiet) quiet=1 ;;
    --perpetual | --concurrent-connections) refuse "$1 is for 'asr bench'" 2 ;;
    -*) refuse "unknown option $1" 2 ;;
    *) files+=("$1") ;;
    esac
    shift
done
((${#files[@]})) || refuse "name at least one sound file" 2
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
