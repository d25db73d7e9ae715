# Sourced by every script here. Finds the project, starts a service and stops exactly that service.
#
#   VENV_PATH        the virtual environment                [.venv of the project]
#   ASR_STATE_DIR    folder of process ids and logs         [~/.local/state/asr-pool]
#   ASR_LISTEN       HOST:PORT in place of the document's
#   ASR_SERVE_ENGINE the engine in place of the document's
# shellcheck shell=bash
set -euo pipefail

COMPAT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd -- "$COMPAT/../.." && pwd)
VENV=${VENV_PATH:-$ROOT/.venv}
STATE=${ASR_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/asr-pool}
DRAIN_S=45 # workers may need 30 s to end their sessions

note() { printf '%s\n' "$*" >&2; }

# refuse SENTENCE [CODE]: print the sentence and exit.
refuse() {
    note "$(basename -- "$0"): $1"
    exit "${2:-1}"
}

# Print the path of a program in the virtual environment, or else in PATH.
program() {
    if [[ -x $VENV/bin/$1 ]]; then
        printf '%s\n' "$VENV/bin/$1"
    else
        command -v "$1" || refuse "$1 is not installed: run 'make -C $ROOT $VENV/.installed' first"
    fi
}

# Install the project into the virtual environment.
install_project() {
    make -C "$ROOT" "VENV=$VENV" "PYTHON=${PYTHON_BIN:-python3}" "$VENV/.installed"
}

# install_extra NAME: install an optional dependency of the project.
install_extra() {
    "$VENV/bin/python" -m pip install --quiet -e "${ROOT}[$1]"
}

# Print the option that selects this engine if it is usable. Otherwise print a note, and the embedded model is used.
engine_options() {
    [[ -z ${ASR_SERVE_ENGINE:-} ]] || return 0
    if is_usable "$1"; then
        printf '%s\n' "--engine=$1"
    else
        note "the engine '$1' is not usable here (asr-worker --list-engines prints why): the embedded model is used"
    fi
}

is_usable() {
    local worker
    worker=$(program asr-worker)
    [[ $("$worker" --list-engines) =~ (^|$'\n')"$1"\ +usable ]]
}

# Print a process's start time, which distinguishes it from a later process with the same id. Fails if it has ended.
identity() {
    local stat
    if [[ -r /proc/$1/stat ]]; then
        stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
        # shellcheck disable=SC2206
        local fields=(${stat##*) })
        [[ ${fields[0]} != Z ]] && printf '%s\n' "${fields[19]}"
    elif [[ -d /proc/self ]]; then
        return 1
    else
        ps -o lstart= -p "$1"
    fi
}

# Print the process id of a service that was started by these scripts and still runs. Fails if there is none.
running() {
    local pid began
    [[ -r $STATE/$1.pid ]] || return 1
    read -r pid began <"$STATE/$1.pid" || return 1
    [[ $(identity "$pid") == "$began" ]] && printf '%s\n' "$pid"
}

remember() {
    mkdir -p "$STATE"
    printf '%s %s\n' "$2" "$(identity "$2")" >"$STATE/$1.pid"
}

refuse_second() {
    local pid
    if pid=$(running "$1"); then
        refuse "$1 is already running (process $pid)"
    fi
}

# serve NAME OPTION...: replace this script's process by `asr serve`.
serve() {
    local name=$1 command
    shift
    refuse_second "$name"
    command=$(program asr)
    remember "$name" $$
    exec "$command" serve "$@"
}

# serve_detached NAME LOG OPTION...: start `asr serve` in a new process session, which this terminal's Ctrl+C does not
# reach.
serve_detached() {
    local name=$1 log=$2 command python
    shift 2
    refuse_second "$name"
    command=$(program asr)
    python=$(program python)
    "$python" -c 'import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])' "$command" serve "$@" \
        >>"$log" 2>&1 </dev/null &
    remember "$name" $!
    disown
}

# stop NAME: stop the service that these scripts started under this name, and no other process.
stop() {
    local pid
    if ! pid=$(running "$1"); then
        rm -f -- "$STATE/$1.pid"
        note "$1 is not running"
        return 0
    fi
    kill -TERM "$pid"
    if ! ended "$1" "$DRAIN_S"; then
        kill -TERM "$pid" # the second SIGTERM kills its processes
        ended "$1" 10 || refuse "$1 (process $pid) does not end"
    fi
    rm -f -- "$STATE/$1.pid"
    note "$1 has ended"
}

# ended NAME SECONDS: wait until the service has ended. Fails after SECONDS.
ended() {
    local tries=$(($2 * 10))
    while running "$1" >/dev/null; do
        ((tries-- > 0)) || return 1
        sleep 0.1
    done
}

# Stop the service. With --nuke-venv, also remove the project's virtual environment, and nothing outside it.
stop_and_clean() {
    local name=$1 nuke=""
    shift
    while (($#)); do
        case $1 in
        --nuke-venv) nuke=1 ;;
        *) refuse "unknown option $1 (the only option is --nuke-venv)" 2 ;;
        esac
        shift
    done
    stop "$name"
    if [[ -n $nuke ]]; then
        [[ -f $VENV/pyvenv.cfg ]] || refuse "$VENV is not a virtual environment"
        rm -rf -- "$VENV"
        note "$VENV is removed"
    fi
}

# run_client COMMAND DIALECT SERVER OPTION...: run `asr client`, `asr warmup` or `asr bench` in this dialect.
run_client() {
    local what=$1 dialect=$2 server=$3 command
    shift 3
    command=$(program asr)
    exec "$command" "$what" --dialect "$dialect" --server "$server" "$@"
}
