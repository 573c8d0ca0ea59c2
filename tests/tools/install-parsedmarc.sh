#!/bin/sh
# Install parsedmarc, whose forty dependencies nothing else here needs, and print the Python that has it.
set -eu
version=11.1.0
echo "$("$(dirname "$0")/install-in-venv.sh" "parsedmarc-$version" "parsedmarc==$version")/bin/python"
