#!/usr/bin/env bash
# A newcomer's first minute: the README's run command, a real client against the address that it prints, and a stop.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${CARGO_TARGET_DIR:-target}/strangers/venv/bin/python"
folder="$(mktemp -d)"
said="$folder/said"

cargo run --release --quiet -- run > "$said" 2>&1 &
gateway=$!
trap 'kill -9 "$gateway" 2> /dev/null || true; rm -rf "$folder"' EXIT

for _ in $(seq 600); do
    url="$(grep -om1 'ws://[^ "'"'"'`]*' "$said" || true)"
    [ -n "$url" ] && "$python" - "$url" 2> /dev/null <<'PY' && break
import sys
from websockets.sync.client import connect
connect(sys.argv[1], proxy=None).close()
PY
    kill -0 "$gateway" 2> /dev/null || { echo "smoke: the gateway ended by itself:"; cat "$said"; exit 1; }
    sleep 0.1
done
[ -n "$url" ] || { echo "smoke: the gateway invites nobody:"; cat "$said"; exit 1; }

"$python" tests/strangers/client.py "$url" || { cat "$said"; exit 1; }

kill -TERM "$gateway"
for _ in $(seq 100); do
    kill -0 "$gateway" 2> /dev/null || break
    sleep 0.1
done
if kill -0 "$gateway" 2> /dev/null; then
    echo "smoke: the gateway did not stop within 10 s of SIGTERM:"
    cat "$said"
    exit 1
fi
code=0
wait "$gateway" || code=$?
trap 'rm -rf "$folder"' EXIT
if [ "$code" != 0 ]; then
    echo "smoke: the gateway stopped with $code instead of 0:"
    cat "$said"
    exit 1
fi
echo "smoke: $url spoke with a stranger and stopped cleanly"
