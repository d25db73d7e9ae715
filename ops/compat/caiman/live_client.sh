#!/usr/bin/env bash
# live_client.sh [--host HOST] [--port PORT]: transcribes the microphone until Ctrl+C. It saves nothing.
# shellcheck source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

host=localhost port=3030
while (($#)); do
    case $1 in
    --host) host=${2:?--host needs a name} ;;
    --port) port=${2:?--port needs a number} ;;
    --input_device) refuse "choose the microphone in the system's settings: the default one is recorded" 2 ;;
    *) refuse "unknown option $1" 2 ;;
    esac
    shift 2
done
command=$(program asr)
exec "$command" transcribe --mic --url "ws://$host:$port"
