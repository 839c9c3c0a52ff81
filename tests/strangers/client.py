"""Python websockets as a stranger: everything it can say to an echo, and what must come back.

Usage: client.py URL. Prints what it did; exits with 1 at the first thing that is not as it should be.
"""

import os
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def check(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {str(found)[:200]} instead of {str(wanted)[:200]}")
    print(f"{what}: as it should be")


def echo(socket, message):
    socket.send(message)
    return socket.recv(timeout=10)


for compression in (None, "deflate"):
    with connect(sys.argv[1], max_size=None, compression=compression, proxy=None) as socket:
        check("text", echo(socket, "Grüße, 世界"), "Grüße, 世界")
        check("empty text", echo(socket, ""), "")
        check("binary", echo(socket, bytes(range(256))), bytes(range(256)))
        large = os.urandom(1 << 20)
        check("1 MiB", echo(socket, large), large)
        check("fragments", echo(socket, ["one ", "two ", "three"]), "one two three")
        check("ping", socket.ping("are you there?").wait(10), True)
        socket.close(4001, "enough said")
        try:
            socket.recv(timeout=10)
        except ConnectionClosed as closed:
            check("close", (closed.rcvd.code, closed.rcvd.reason), (4001, "enough said"))
