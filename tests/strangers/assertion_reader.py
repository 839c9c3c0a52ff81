"""PyJWT as a stranger: a backend that reads the gateway's assertions, as docs/policies.md tells it to.

Usage: assertion_reader.py DIRECTORY ISSUER reads keys.json, a set of public keys, and verifies every *.jwt beside it.
Prints what it did; exits with 1 at the first thing that is not as it should be.
"""

import json
import sys
from pathlib import Path

import jwt

directory, issuer = Path(sys.argv[1]), sys.argv[2]
keys = jwt.PyJWKSet.from_json((directory / "keys.json").read_text())


def read(token):
    key = keys[jwt.get_unverified_header(token)["kid"]]
    options = {"require": ["exp", "iat", "jti", "sub"]}
    return jwt.decode(token, key, algorithms=[key.algorithm_name], issuer=issuer, options=options)


files = sorted(directory.glob("*.jwt"))
if len(files) != 3:
    sys.exit(f"there are {len(files)} assertions")
for file in files:
    token = file.read_text()
    claims = read(token)
    if claims["sub"] != "alice" or claims["application"] != "shop" or claims["apiname"] != file.stem:
        sys.exit(f"{file.name} says {json.dumps(claims)}")
    head, body, signature = token.split(".")
    forged = jwt.utils.base64url_encode(json.dumps({**claims, "sub": "mallory"}).encode()).decode()
    try:
        read(f"{head}.{forged}.{signature}")
        sys.exit(f"{file.name} can be forged")
    except jwt.InvalidSignatureError:
        print(f"{file.name}: {jwt.get_unverified_header(token)['alg']} is good, and a forged one is not")
