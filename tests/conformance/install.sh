#!/usr/bin/env bash
# Installs the Autobahn test suite (CPython 2.7 only) and its peers (CPython 3) under target/conformance.
# Exits with 77, saying why, where there is no CPython 2.7 to be found: the suite is then skipped, not failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
home="${CARGO_TARGET_DIR:-target}/conformance"

python27() {
    local candidate
    for candidate in "${PYTHON27:-}" python2.7 /usr/bin/python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7; do
        [ -n "$candidate" ] || continue
        # A shim of pyenv exists for versions that are not selected too; only one that runs counts.
        if candidate="$(command -v "$candidate")" && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

if ! python27="$(python27)"; then
    echo "skipped: the Autobahn test suite needs CPython 2.7, and none was found (PYTHON27 may name one)" >&2
    exit 77
fi

# Installed already, from these very lists?
stamp="$(cat tests/conformance/requirements-*.txt; echo "$python27")"
if [ "$(cat "$home/stamp" 2>/dev/null || true)" = "$stamp" ]; then
    exit 0
fi

rm -rf "$home/suite" "$home/peers" "$home/stamp"
mkdir -p "$home"
echo "conformance: installing the Autobahn test suite under $home (CPython 2.7: $python27)"
python3 -m venv "$home/peers"
"$home/peers/bin/python" -m pip install --quiet -r tests/conformance/requirements-peers.txt
"$home/peers/bin/virtualenv" --quiet --python "$python27" "$home/suite"
"$home/suite/bin/python" -m pip install --quiet -r tests/conformance/requirements-suite.txt 2> "$home/pip.log" \
    || { cat "$home/pip.log" >&2; exit 1; }
printf '%s' "$stamp" > "$home/stamp"
