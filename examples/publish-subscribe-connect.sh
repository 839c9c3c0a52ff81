#!/bin/sh
# From nothing to a session that is revoked: publishes an API, subscribes an application to it, makes a key and gets a token,
# connects with both, and takes both back. docs/identity.md tells the same story.
#
# Needs framegate and curl. Everything it makes is below a directory of its own, which goes with it.
#
#     examples/publish-subscribe-connect.sh
set -eu

framegate=${FRAMEGATE:-framegate}
public=127.0.0.1:${PUBLIC_PORT:-8080}
tokens=127.0.0.1:${TOKEN_PORT:-8090}
echo=127.0.0.1:${ECHO_PORT:-9001}
operator=127.0.0.1:${OPERATOR_PORT:-9901}

directory=$(mktemp -d)
children=
finish() {
    for child in $children; do kill "$child" 2>/dev/null || true; done
    wait
    rm -rf "$directory"
}
trap finish EXIT
export FRAMEGATE_CONTROL="$directory/control.sock"

say() { printf '\n== %s\n' "$*"; }
# The value of a text in JSON on standard input.
member() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }
# Waits, for ten seconds at most, until a file has a text.
await() {
    tries=0
    until grep -aqs "$2" "$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || { echo "waited in vain for: $2"; cat "$1"; exit 1; }
        sleep 0.05
    done
}
# A WebSocket handshake by curl, which writes the answer's head to NAME.head, and whatever comes behind it to NAME.heard.
connect() {
    name=$1
    shift
    curl --silent --verbose --no-buffer --http1.1 --max-time 60 \
        -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
        -H "Sec-WebSocket-Key: $(head -c 16 /dev/urandom | base64)" "$@" "http://$public/chat/v1" \
        > "$directory/$name.heard" 2> "$directory/$name.head"
}

say "A gateway that publishes nothing yet, with a token endpoint; and a service behind it, an echo"
cat > "$directory/gateway.yaml" <<YAML
version: 1
listeners: [{ name: public, bind: "$public" }]
token_endpoint: { bind: "$tokens", issuer: "http://$tokens" }
apis: []
YAML
"$framegate" echo --bind "$echo" > "$directory/echo.log" 2>&1 &
children="$children $!"
"$framegate" run "$directory/gateway.yaml" --state-dir "$directory/state" --operator "$operator" \
    --log "$directory/sessions.log" --workers 1 > "$directory/gateway.log" 2>&1 &
children="$children $!"
await "$directory/gateway.log" "framegate: ready"

say "Publish: an API at /chat, version v1, for who has an API key or a token"
"$framegate" api create chat:v1 --context /chat --to "ws://$echo/" --accept api_key --accept bearer

say "Subscribe: an application, and its subscription to the API"
"$framegate" app create mobile --owner team-mobile@example.com
"$framegate" subscription create mobile chat:v1

say "A key and an OAuth2 client of the application; each secret is told once"
key=$("$framegate" key create mobile-1 --application mobile --expires 90d --json --wait | member key)
secret=$("$framegate" app client create mobile --id mobile-app --json --wait | member client_secret)
[ -n "$key" ] && [ -n "$secret" ]

say "Get a token"
token=$(curl --silent --fail -u "mobile-app:$secret" -d grant_type=client_credentials \
    "http://$tokens/oauth2/token" | member access_token)
[ -n "$token" ]

say "Connect without anything: refused"
connect nobody
grep "HTTP/1.1 401" "$directory/nobody.head"

say "Connect with the key, and with the token: two sessions"
connect key -H "apikey: $key" &
children="$children $!"
connect token -H "Authorization: Bearer $token" &
children="$children $!"
for who in key token; do
    await "$directory/$who.head" "HTTP/1.1 101"
    echo "with the $who: $(grep "HTTP/1.1 101" "$directory/$who.head")"
done

say "Revoke the key: its session ends at once, and the other one stays"
"$framegate" revoke key:mobile-1 --reason 'an example' --wait
await "$directory/key.heard" "credential revoked"
echo "the session of the key heard: credential revoked"
if grep -q "credential revoked" "$directory/token.heard"; then echo "the other one, too?"; exit 1; fi

say "The client gives its token back: that session ends, too"
printf '%s\n' "$token" | FRAMEGATE_CLIENT_SECRET=$secret "$framegate" token revoke --endpoint "http://$tokens" --client mobile-app
await "$directory/token.heard" "credential revoked"
echo "the session of the token heard: credential revoked"

say "Connect again with either: refused"
for credential in "apikey: $key" "Authorization: Bearer $token"; do
    connect again -H "$credential"
    grep "HTTP/1.1 401" "$directory/again.head"
done

say "Done"
