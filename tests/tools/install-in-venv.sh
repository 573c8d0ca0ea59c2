#!/bin/sh
# install-in-venv.sh NAME PACKAGE…: make a virtual environment with programs that only a test needs, and print where it
# is. It is kept in the cache directory of the lab, outside the checkout, and made once for each NAME.
set -eu
name=$1
shift
directory="${STSGUARD_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stsguard-lab}"
venv="$directory/$name"
if [ ! -e "$venv/.stamp" ]; then
    mkdir -p "$directory"
    (
        flock 9
        if [ ! -e "$venv/.stamp" ]; then
            rm -rf "$venv"
            "${PYTHON:-python3}" -m venv "$venv" >&2
            "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" >&2
            touch "$venv/.stamp"
        fi
    ) 9> "$directory/.$name.lock"
fi
echo "$venv"
