#!/bin/sh
# Make a virtual environment with parsedmarc, whose forty dependencies nothing else here needs, and print where it is.
# It is kept in the cache directory of the lab, outside the checkout, and made once for each version.
set -eu
version=11.1.0
directory="${STSGUARD_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stsguard-lab}"
venv="$directory/parsedmarc-$version"
if [ ! -e "$venv/.stamp" ]; then
    mkdir -p "$directory"
    (
        flock 9
        if [ ! -e "$venv/.stamp" ]; then
            rm -rf "$venv"
            "${PYTHON:-python3}" -m venv "$venv" >&2
            "$venv/bin/pip" install --quiet --disable-pip-version-check "parsedmarc==$version" >&2
            touch "$venv/.stamp"
        fi
    ) 9> "$directory/.parsedmarc.lock"
fi
echo "$venv/bin/python"
