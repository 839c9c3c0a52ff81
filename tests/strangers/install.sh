#!/usr/bin/env bash
# Installs the strangers, programs that other people wrote: the clients Python websockets and Node ws, Python's Authlib and PyJWT,
# which get and make tokens, and its openapi-spec-validator, under target/strangers,
# and, where apt-get may, Debian's Chromium, openssl, which makes the tests' certificates, and strace, which counts system
# calls. Says what it could not install, and then exits with 1; the tests skip what is missing.
set -uo pipefail
cd "$(dirname "$0")/../.."
home="${CARGO_TARGET_DIR:-target}/strangers"
mkdir -p "$home"
missing=()

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo > /dev/null; then sudo -n "$@"; else return 1; fi
}

apt_install() {
    command -v apt-get > /dev/null || return 1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > "$home/apt.log" 2>&1 && return
    # The lists of a fresh machine are empty or old.
    as_root apt-get update -qq > "$home/apt.log" 2>&1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > "$home/apt.log" 2>&1
}

if ! "$home/venv/bin/python" -c 'import websockets' 2> /dev/null; then
    rm -rf "$home/venv"
    if ! python3 -m venv "$home/venv" 2> /dev/null; then
        apt_install python3 python3-venv
        python3 -m venv "$home/venv"
    fi
    "$home/venv/bin/python" -m pip install --quiet 'websockets>=15,<18' || missing+=("Python websockets")
fi

if ! "$home/venv/bin/python" -c 'import authlib, requests, jwt, cryptography' 2> /dev/null; then
    "$home/venv/bin/python" -m pip install --quiet 'authlib>=1.6,<2' 'requests>=2,<3' 'pyjwt[crypto]>=2.10,<3' \
        || missing+=("Python Authlib and PyJWT")
fi

if ! "$home/venv/bin/python" -c 'import openapi_spec_validator' 2> /dev/null; then
    "$home/venv/bin/python" -m pip install --quiet 'openapi-spec-validator>=0.7,<1' || missing+=("Python openapi-spec-validator")
fi

if [ ! -d "$home/node_modules/ws" ]; then
    command -v npm > /dev/null || apt_install nodejs npm
    npm install --silent --no-audit --no-fund --no-save --prefix "$home" ws@8 || missing+=("Node ws")
fi

if ! command -v chromium > /dev/null && ! command -v chromium-browser > /dev/null; then
    apt_install chromium || missing+=("Chromium")
fi

if ! command -v openssl > /dev/null; then
    apt_install openssl || missing+=("openssl")
fi

if ! command -v strace > /dev/null; then
    apt_install strace || missing+=("strace")
fi

if [ ${#missing[@]} -gt 0 ]; then
    printf 'strangers: could not install %s\n' "${missing[@]}" >&2
    exit 1
fi
echo "strangers: Python websockets, Authlib, PyJWT and openapi-spec-validator, Node ws, Chromium, openssl and strace are here"
