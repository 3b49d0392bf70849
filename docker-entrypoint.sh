#!/bin/sh
# Runs charlm in the container, after a warning if a run would be lost with the container.
set -eu

run_folder() { # prints the value of --out, or the default folder
    folder=checkpoints
    previous=
    for argument; do
        case $argument in --out=*) folder=${argument#--out=} ;; esac
        [ "$previous" != --out ] || folder=$argument
        previous=$argument
    done
    printf '%s\n' "$folder"
}

is_mounted() { # whether the folder, which need not exist yet, is a mounted one or in a mounted one
    folder=$(realpath -m -- "$1")
    while [ "$folder" != / ]; do
        if mountpoint -q -- "$folder"; then return 0; fi
        folder=$(dirname -- "$folder")
    done
    return 1
}

if [ "${1-}" = train ] && ! is_mounted "$(run_folder "$@")"; then
    echo "charlm: warning: the run will be lost with the container; keep it with" \
        "docker run -v \"\$PWD/checkpoints:/home/charlm/checkpoints\"" >&2
fi
exec charlm "$@"
