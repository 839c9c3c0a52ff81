"""A control plane of a page, written from docs/control-protocol.md alone: control_plane.py SOCKET PUBLIC TAKEN BACKEND.

Pushes good and bad generations to the node that dials, prints each answer, and waits for a line before the next."""
import hashlib, io, socket, struct, sys


def pack(value):  # MessagePack, every length in 32 bits
    if isinstance(value, int):
        return b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, dict):
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(pack(k) + pack(v) for k, v in value.items())
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
    tag, data = (b"\xdb", value.encode()) if isinstance(value, str) else (b"\xc6", value)
    return tag + struct.pack(">I", len(data)) + data


def unpack(source):
    number = lambda width: int.from_bytes(source.read(width), "big")
    tag = number(1)
    if tag < 0x80:
        return tag
    if tag < 0x90 or tag >= 0xDE:
        count = tag & 15 if tag < 0x90 else number(2 << tag - 0xDE)
        return {unpack(source): unpack(source) for _ in range(count)}
    if tag < 0xA0 or tag >= 0xDC:
        return [unpack(source) for _ in range(tag & 15 if tag < 0xA0 else number(2 << tag - 0xDC))]
    if tag < 0xC0 or tag >= 0xD9:
        return source.read(tag & 31 if tag < 0xC0 else number(1 << tag - 0xD9)).decode()
    if 0xCC <= tag <= 0xCF:
        return number(1 << tag - 0xCC)
    return {0xC0: None, 0xC2: False, 0xC3: True}[tag]


def receive(peer, wanted):
    while True:  # reports come whenever they like
        length, kind = struct.unpack(">IB", peer.recv(5, socket.MSG_WAITALL))
        payload = unpack(io.BytesIO(peer.recv(length - 1, socket.MSG_WAITALL)))
        if kind in wanted:
            return kind, payload


def send(peer, kind, message):
    peer.sendall(struct.pack(">IB", len(pack(message)) + 1, kind) + pack(message))


def digest(data):
    return hashlib.sha256(data).hexdigest()


def sections(listeners, apis):  # every API has a bucket of its own here
    buckets = sorted(("apis/" + digest(api["name"].encode())[:2], pack([api])) for api in apis)
    return [("settings", pack({})), ("listeners", pack(listeners))] + buckets


def push(peer, number, parts, held=(), checksum=None):
    listed = [[name, digest(data)] for name, data in parts]
    right = digest("".join(f"{name} {hash_}\n" for name, hash_ in listed).encode())
    bodies = [{"name": name, "bytes": data} for name, data in parts if digest(data) not in held]
    generation = {"source": "a stranger", "number": number}
    send(peer, 3, {"generation": generation, "checksum": checksum or right, "sections": listed, "bodies": bodies})
    kind, answer = receive(peer, (4, 5))
    assert answer["generation"] == generation, answer
    print("ack" if kind == 4 else "reject " + " | ".join(answer["reasons"]), flush=True)
    sys.stdin.readline()


def api(name, backend, **more):
    return {"name": name, "context": "/" + name, "endpoints": {"production": {"url": backend}}, **more}


def meet(door):
    peer = door.accept()[0]
    hello = receive(peer, (1,))[1]
    send(peer, 2, {"protocol": 1, "software": "stranger", "a field of tomorrow": [1, {"x": "y"}]})
    return peer, hello


path, public, taken, backend = sys.argv[1:]
door = socket.socket(socket.AF_UNIX)
door.bind(path)
door.listen()
peer, hello = meet(door)
assert hello["protocol"] == 1 and hello["node"] == "test" and hello.get("applied") is None, hello
listeners, probe, new = [{"name": "public", "bind": public}], api("probe", backend), api("new", backend)
good = sections(listeners, [probe])
push(peer, 1, good)
push(peer, 2, sections(listeners, [probe, {**new, "endpoints": {"production": {"upstream": "nobody"}}}]))
push(peer, 3, sections(listeners, [probe, api("new", backend, teleport=1)]))
push(peer, 4, sections(listeners, [probe, new]), checksum=digest(b"something else"))
push(peer, 5, sections(listeners + [{"name": "second", "bind": taken}], [probe, new]))
push(peer, 6, sections(listeners, [probe, new]), held=[digest(data) for _, data in sections(listeners, [new])])
peer.close()  # a node that lost its control plane serves on, dials again, and says what it holds
peer, hello = meet(door)
held = {digest(data) for _, data in good}
assert hello["applied"] == {"source": "a stranger", "number": 1} and set(hello["sections"]) == held, hello
push(peer, 7, sections(listeners, [probe, new]), held=held)
