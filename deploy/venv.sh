#!/bin/sh
# Make a virtual environment at $1 and install this checkout into it with the extras $2 (editable).
# Uses uv if it is installed, else venv + pip, else venv without pip + an outside pip; else it names what to install.
set -eu
folder=$1
extras=$2
export PIP_DISABLE_PIP_VERSION_CHECK=1

python=$(command -v python3 || true)
if ! command -v uv >/dev/null 2>&1; then
    if [ -z "$python" ]; then
        echo "python3 is not installed: apt-get install python3 python3-venv" >&2
        exit 69
    fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "python3 is $("$python" -V 2>&1 | cut -d' ' -f2), edgebed needs 3.11 or newer: install it, or uv" >&2
        exit 69
    fi
fi

fresh() { [ ! -x "$folder/bin/python" ]; }

if command -v uv >/dev/null 2>&1; then
    if fresh; then uv venv --quiet --python '>=3.11' "$folder"; fi
    uv pip install --quiet --python "$folder/bin/python" --editable ".[$extras]"
elif [ -x "$folder/bin/pip" ] || { fresh && "$python" -c 'import ensurepip' 2>/dev/null; }; then
    if fresh; then "$python" -m venv "$folder"; fi
    "$folder/bin/python" -m pip install --quiet --editable ".[$extras]"
elif "$python" -m pip --version >/dev/null 2>&1; then
    if fresh; then "$python" -m venv --without-pip "$folder"; fi
    "$python" -m pip --python "$folder/bin/python" install --quiet --editable ".[$extras]"
else
    echo "neither uv nor python3 venv with pip is installed: apt-get install python3-venv" >&2
    exit 69
fi
