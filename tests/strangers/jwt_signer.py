"""PyJWT as a stranger: it makes keys and tokens that the gateway has to believe, and some that it must not.

Usage: jwt_signer.py keys DIRECTORY writes keys.json, a set of public keys, and the private ones beside it.
       jwt_signer.py connect DIRECTORY WEBSOCKET_URL ISSUER AUDIENCE CLIENT signs with them, and connects.
Prints what it did; exits with 1 at the first thing that is not as it should be.
"""

import json
import sys
import time
import uuid
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ALGORITHMS = {
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "RS256": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm),
}
directory = Path(sys.argv[2])


def make_keys():
    keys = []
    for name, (generate, algorithm) in ALGORITHMS.items():
        private = generate()
        jwk = json.loads(algorithm.to_jwk(private.public_key()))
        keys.append({**jwk, "kid": name, "use": "sig", "alg": name})
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (directory / f"{name}.key").write_bytes(pem)
    (directory / "keys.json").write_text(json.dumps({"keys": keys}))


def status(url, token):
    try:
        with connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as socket:
            socket.send("hello")
            return 101 if socket.recv(timeout=10) == "hello" else 0
    except InvalidStatus as answer:
        return answer.response.status_code


def use_keys(url, issuer, audience, client):
    now = int(time.time())
    good = {"iss": issuer, "aud": audience, "sub": "somebody", "client_id": client, "iat": now, "exp": now + 60}
    for name in ALGORITHMS:
        key = (directory / f"{name}.key").read_text()
        other = ALGORITHMS[name][0]()
        cases = [
            ("good", {}, key, name, 101),
            ("run out", {"exp": now - 1}, key, name, 401),
            ("too early", {"nbf": now + 60}, key, name, 401),
            ("for others", {"aud": "wss://elsewhere.test"}, key, name, 401),
            ("of others", {"iss": "https://elsewhere.test"}, key, name, 401),
            ("signed by others", {}, other, name, 401),
            ("an unknown key", {}, key, "unknown", 401),
        ]
        for what, change, signer, kid, wanted in cases:
            claims = {**good, "jti": str(uuid.uuid4()), **change}
            token = jwt.encode(claims, signer, algorithm=name, headers={"kid": kid})
            found = status(url, token)
            if found != wanted:
                sys.exit(f"{name}, {what}: {found} instead of {wanted}")
            print(f"{name}, {what}: as it should be")
    found = status(url, jwt.encode({**good, "jti": "x"}, None, algorithm="none", headers={"kid": "EdDSA"}))
    if found != 401:
        sys.exit(f"none: {found} instead of 401")


make_keys() if sys.argv[1] == "keys" else use_keys(*sys.argv[3:7])
