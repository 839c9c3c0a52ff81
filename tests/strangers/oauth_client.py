"""Authlib as a stranger: it gets tokens of every grant from the token endpoint, and Python websockets uses them.

Usage: oauth_client.py ENDPOINT WEBSOCKET_URL CLIENT USER; the client's secret and the user's password are in the variables
CLIENT_SECRET and USER_PASSWORD. Prints what it did; exits with 1 at the first thing that is not as it should be.
"""

import os
import sys
import time

import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.jose import JsonWebKey, jwt
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

base, url, client, user = sys.argv[1:5]
secret, password = os.environ["CLIENT_SECRET"], os.environ["USER_PASSWORD"]


def check(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {str(found)[:200]} instead of {str(wanted)[:200]}")
    print(f"{what}: as it should be")


def opened(token):
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    return connect(url, additional_headers=headers, proxy=None)


def refused(what, token, status):
    try:
        opened(token).close()
    except InvalidStatus as answer:
        return check(what, answer.response.status_code, status)
    sys.exit(f"{what}: it was let in")


metadata = requests.get(f"{base}/.well-known/oauth-authorization-server", timeout=10).json()
keys = JsonWebKey.import_key_set(requests.get(metadata["jwks_uri"], timeout=10).json())
endpoint = metadata["token_endpoint"]

for method in metadata["token_endpoint_auth_methods_supported"]:
    session = OAuth2Session(client, secret, scope="read", token_endpoint_auth_method=method)
    token = session.fetch_token(endpoint, grant_type="client_credentials")
    check(f"{method}: scope", token["scope"], "read")
    claims = jwt.decode(token["access_token"], keys)
    claims.validate()
    check(f"{method}: claims", (claims["iss"], claims["sub"], claims["client_id"]), (base, client, client))
    with opened(token) as socket:
        socket.send("hello")
        check(f"{method}: echo", socket.recv(timeout=10), "hello")

session = OAuth2Session(client, secret)
token = session.fetch_token(endpoint, grant_type="password", username=user, password=password)
check("password: subject", jwt.decode(token["access_token"], keys)["sub"], user)
fresh = session.refresh_token(endpoint, refresh_token=token["refresh_token"])
check("refreshed: another token", fresh["access_token"] != token["access_token"], True)
told = session.introspect_token(metadata["introspection_endpoint"], token=fresh["access_token"]).json()
check("introspected", (told["active"], told["username"]), (True, user))

with opened(fresh) as socket:
    start = time.monotonic()
    answer = session.revoke_token(metadata["revocation_endpoint"], token=fresh["access_token"])
    check("revoked", answer.status_code, 200)
    try:
        socket.recv(timeout=5)
    except ConnectionClosed as closed:
        check("closed", closed.rcvd.code, 1008)
    check("within a second", time.monotonic() - start < 1, True)
refused("used again", fresh, 401)

for what, form, word in [
    ("a wrong password", {"grant_type": "password", "username": user, "password": "no"}, "invalid_grant"),
    ("a scope beyond", {"grant_type": "client_credentials", "scope": "root"}, "invalid_scope"),
]:
    try:
        session.fetch_token(endpoint, **form)
        sys.exit(f"{what}: it was granted")
    except OAuthError as error:
        check(what, error.error, word)
