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

# Members only: with the key that is printed, with a token for the secret that is printed, and not without.
with_key="$(grep -o "ws://[^']*apikey=[^']*" "$said")"
"$python" tests/strangers/client.py "$with_key" || { echo "smoke: the printed key is not good"; exit 1; }
endpoint="$(grep -o -- '--endpoint [^) ]*' "$said" | cut -d' ' -f2)"
token="$(FRAMEGATE_CLIENT_SECRET="$(grep -o 'fgs_[A-Za-z0-9_-]*' "$said")" \
    cargo run --release --quiet -- token get --client example --endpoint "$endpoint")"
members="${with_key%%\?*}"
"$python" tests/strangers/client.py "$members?access_token=$token" || { echo "smoke: the token is not good"; exit 1; }
"$python" - "$members" <<'PY' || { echo "smoke: the members' API lets anybody in"; exit 1; }
import sys
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
try:
    connect(sys.argv[1], proxy=None).close()
except InvalidStatus as refused:
    sys.exit(refused.response.status_code != 401)
sys.exit(1)
PY

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
