"""Python websockets on both sides of a gateway that leaves messages out: what passes must still inflate.

Usage: limited.py PORT URL [NOTICE]. Serves PORT, connects to URL, and lets both sides talk at once. Prints what it saw;
exits with 1 at the first thing that is not as it should be.
"""

import sys
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.sync.client import connect
from websockets.sync.server import serve

MESSAGES = 400
notice = sys.argv[3] if len(sys.argv) > 3 else None
heard = {"server": [], "client": []}
told = []
done = threading.Event()


def message(side, at):
    # Each is like the one before it, so that a compressor with a memory would lean on it.
    return f"{side} says for the {at}th time what it has said all along: all work and no play"


def talk(socket, side):
    for at in range(MESSAGES):
        socket.send(message(side, at))
        time.sleep(0.002)


def listen(socket, side, other):
    try:
        while True:
            text = socket.recv()
            if text == notice:
                told.append(text)
                continue
            heard[side].append(text)
    except ConnectionClosed as closed:
        if closed.rcvd is None or closed.rcvd.code != 1000:
            sys.exit(f"{side} was closed: {closed}")


def serve_one(socket):
    talker = threading.Thread(target=talk, args=(socket, "server"))
    talker.start()
    listen(socket, "server", "client")
    talker.join()
    done.set()


server = serve(serve_one, "127.0.0.1", int(sys.argv[1]))
threading.Thread(target=server.serve_forever, daemon=True).start()
with connect(sys.argv[2], proxy=None) as socket:
    deflate = [one for one in socket.protocol.extensions if isinstance(one, PerMessageDeflate)]
    if len(deflate) != 1:
        sys.exit("compression was not agreed")
    if not (deflate[0].local_no_context_takeover and deflate[0].remote_no_context_takeover):
        sys.exit(f"contexts were agreed: {deflate[0]}")
    listener = threading.Thread(target=listen, args=(socket, "client", "server"))
    listener.start()
    talk(socket, "client")
    time.sleep(0.5)
    socket.close()
    listener.join()
if not done.wait(10):
    sys.exit("the server heard of no end")
for side, other in (("server", "client"), ("client", "server")):
    wanted = [message(other, at) for at in range(MESSAGES)]
    passed = iter(wanted)
    if not all(text in passed for text in heard[side]):
        sys.exit(f"{side} heard what was not said, or not in its order")
    if not 20 <= len(heard[side]) < MESSAGES:
        sys.exit(f"{side} heard {len(heard[side])} of {MESSAGES}")
    print(f"{side} heard {len(heard[side])} of {MESSAGES}, each as it was said")
if (notice is not None) != (len(told) > 0):
    sys.exit(f"the client was told {len(told)} times")
print(f"the client was told {len(told)} times")
