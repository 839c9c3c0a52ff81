#!/usr/bin/env python3
"""Asks the Autobahn test suite whether the gateway changes any verdict.

Two questions, each asked twice, without the gateway and through it; a case passes when its verdicts are the same:
- front: the suite's fuzzing client attacks an echo backend (which must itself pass every case);
- behind: the suite's fuzzing server is a hostile upstream for an echo client.

Usage: run.py GATEWAY [--all] [--tls] [--driver auto|uring|epoll] [--only front|behind] [--cases PATTERN,...]
GATEWAY is the framegate executable, or `none` to ask only how the peers do by themselves.
With --tls the way through the gateway has three sessions of it in a row: TLS to the endpoint, TLS on both legs, and TLS
to the client. Neither the suite nor its peers need to speak it.
Without --all the compression groups 12 and 13 are left out: they are many minutes of waiting.
Closes with one line, `N passed, N failed`; exits with 1 if any failed. install.sh comes first.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "conformance"
HOME = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "conformance"
PEERS_PYTHON = HOME / "peers" / "bin" / "python"
WSTEST = HOME / "suite" / "bin" / "wstest"

BASIC = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
COMPRESSION = ["12.*", "13.*"]
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}

# The suite's largest message is 16 MiB; everything else is the gateway's default. Both APIs lead to loopback ports.
CONFIG = """\
version: 1
settings: {{ drain_window: 1s }}
listeners: [{{ name: public, bind: "127.0.0.1:{listen}" }}]
apis:
  - name: echo
    context: /echo
    endpoints: {{ production: {{ url: "ws://127.0.0.1:{backend}/" }} }}
    limits: {{ max_frame: 16MiB, max_message: 16MiB }}
  - name: fuzzing-server
    context: /runCase
    endpoints: {{ production: {{ url: "ws://127.0.0.1:{fuzzer}/runCase" }} }}
    limits: {{ max_frame: 16MiB, max_message: 16MiB }}
"""


# The same over TLS: both ways lead twice through a listener that speaks it.
TLS_CONFIG = """\
version: 1
settings: {{ drain_window: 1s }}
certificates: [{{ name: edge, chain: edge.pem, key: edge.key }}]
authorities: [{{ name: own, certificates: own.pem }}]
listeners:
  - {{ name: public, bind: "127.0.0.1:{listen}" }}
  - {{ name: secure, bind: "127.0.0.1:{secure}", tls: {{ certificates: [edge] }} }}
upstreams:
  - {{ name: echo-1, endpoints: [{{ url: "wss://127.0.0.1:{secure}/echo-2" }}], tls: {{ authorities: own }} }}
  - {{ name: echo-2, endpoints: [{{ url: "wss://127.0.0.1:{secure}/echo-3" }}], tls: {{ authorities: own }} }}
  - {{ name: echo-3, endpoints: [{{ url: "ws://127.0.0.1:{backend}/" }}] }}
  - {{ name: case-1, endpoints: [{{ url: "wss://127.0.0.1:{secure}/case-2" }}], tls: {{ authorities: own }} }}
  - {{ name: case-2, endpoints: [{{ url: "wss://127.0.0.1:{secure}/case-3" }}], tls: {{ authorities: own }} }}
  - {{ name: case-3, endpoints: [{{ url: "ws://127.0.0.1:{fuzzer}/runCase" }}] }}
apis:
  - {{ name: echo-1, context: /echo, endpoints: {{ production: {{ upstream: echo-1 }} }}, {limits} }}
  - {{ name: echo-2, context: /echo-2, endpoints: {{ production: {{ upstream: echo-2 }} }}, {limits} }}
  - {{ name: echo-3, context: /echo-3, endpoints: {{ production: {{ upstream: echo-3 }} }}, {limits} }}
  - {{ name: case-1, context: /runCase, endpoints: {{ production: {{ upstream: case-1 }} }}, {limits} }}
  - {{ name: case-2, context: /case-2, endpoints: {{ production: {{ upstream: case-2 }} }}, {limits} }}
  - {{ name: case-3, context: /case-3, endpoints: {{ production: {{ upstream: case-3 }} }}, {limits} }}
"""
LIMITS = "limits: { max_frame: 16MiB, max_message: 16MiB }"


def make_certificates():
    """An authority and a certificate for 127.0.0.1, beside the configuration."""
    (HOME / "tls.cnf").write_text(
        "[req]\ndistinguished_name = nobody\n[nobody]\n[own]\nbasicConstraints = critical, CA:TRUE\n"
        "[edge]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = IP:127.0.0.1\n"
    )
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "tls.cnf"]
    signed = ["-CA", "own.pem", "-CAkey", "own.key", "-CAcreateserial", "-days", "2"]
    for command in [
        ["req", "-x509", *key, "-subj", "/CN=own", "-extensions", "own", "-keyout", "own.key", "-out", "own.pem"],
        ["req", *key, "-subj", "/CN=edge", "-keyout", "edge.key", "-out", "edge.csr"],
        ["x509", "-req", "-in", "edge.csr", *signed, "-extfile", "tls.cnf", "-extensions", "edge", "-out", "edge.pem"],
    ]:
        subprocess.run(["openssl", *command], cwd=HOME, check=True, stderr=subprocess.DEVNULL)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, seconds, condition):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"conformance: {what} did not happen within {seconds} s")
        time.sleep(0.05)


def listening(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


@contextlib.contextmanager
def process(name, *command):
    """A child whose output goes to a file, ended when the block is left."""
    with open(HOME / f"{name}.log", "wb") as log:
        child = subprocess.Popen([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, cwd=HOME)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def gateway(executable, driver, tls, backend, fuzzer):
    """The gateway before the backend and the fuzzing server; yields the port it listens on."""
    listen, operator = free_port(), free_port()
    state = HOME / "state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    config = HOME / "gateway.yaml"
    if tls:
        make_certificates()
    template = TLS_CONFIG if tls else CONFIG
    config.write_text(template.format(listen=listen, secure=free_port(), backend=backend, fuzzer=fuzzer, limits=LIMITS))
    options = ["--control", state / "control.sock", "--state-dir", state, "--operator", f"127.0.0.1:{operator}"]
    options += ["--driver", driver, "--workers", "1", "--log", HOME / "sessions.log"]

    def ready():
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{operator}/ready", timeout=1) as answer:
                return answer.status == 200
        return False

    with process("gateway", executable, "run", config, *options):
        until("readiness of the gateway", 20, ready)
        yield listen


def verdicts(report):
    """The verdict on each case in a report of the suite: how it behaved, and how it closed."""
    index = json.loads((report / "index.json").read_text())
    (cases,) = index.values()
    return {case: (row["behavior"], row["behaviorClose"]) for case, row in cases.items()}


def front(urls, cases):
    """Runs the fuzzing client against each URL, all at once; returns the verdicts by name."""
    children = []
    for name, url in urls.items():
        report = HOME / "reports" / f"front-{name}"
        shutil.rmtree(report, ignore_errors=True)
        report.mkdir(parents=True)
        spec = HOME / f"front-{name}.json"
        servers = [{"agent": name, "url": url}]
        spec.write_text(json.dumps({"outdir": str(report), "servers": servers, "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}))
        with open(HOME / f"front-{name}.log", "wb") as log:
            command = [WSTEST, "-m", "fuzzingclient", "-s", spec]
            children.append((name, report, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=HOME)))
    for _, _, child in children:
        child.wait()
    return {name: verdicts(report) for name, report, _ in children}


def behind(names, fuzzer_port, gateway_port, cases):
    """Runs an echo client against a fuzzing server, by itself and through the gateway; returns the verdicts by name."""
    report = HOME / "reports" / "behind"
    shutil.rmtree(report, ignore_errors=True)
    report.mkdir(parents=True)
    spec = HOME / "behind.json"
    url = f"ws://127.0.0.1:{fuzzer_port}"
    spec.write_text(json.dumps({"outdir": str(report), "url": url, "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}))
    with process("fuzzing-server", WSTEST, "-m", "fuzzingserver", "-s", spec, "-u", "0"):
        until("the start of the fuzzing server", 30, lambda: listening(fuzzer_port))
        ports = {"direct": fuzzer_port, "gateway": gateway_port}
        children = []
        for name in names:
            command = [PEERS_PYTHON, HERE / "client.py", f"ws://127.0.0.1:{ports[name]}", url, name]
            with open(HOME / f"behind-{name}.log", "wb") as log:
                children.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=HOME))
        for child in children:
            child.wait()
    index = json.loads((report / "index.json").read_text())
    return {name: {c: (r["behavior"], r["behaviorClose"]) for c, r in index.get(name, {}).items()} for name in names}


def in_order(case):
    return tuple(int(part) for part in case.split("."))


def compare(question, found):
    """Prints what differs; returns how many cases passed and failed."""
    direct, through = found["direct"], found.get("gateway", found["direct"])
    passed = failed = 0
    for case in sorted(direct.keys() | through.keys(), key=in_order):
        alone, behind_gateway = direct.get(case, ("MISSING",) * 2), through.get(case, ("MISSING",) * 2)
        if not GOOD.issuperset(alone):
            print(f"{question} {case}: the peer itself fails: {'/'.join(alone)}")
            failed += 1
        elif alone != behind_gateway:
            print(f"{question} {case}: {'/'.join(alone)} without the gateway, {'/'.join(behind_gateway)} through it")
            failed += 1
        else:
            passed += 1
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gateway")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--driver", default="auto")
    parser.add_argument("--only", choices=["front", "behind"])
    parser.add_argument("--cases", type=lambda text: text.split(","))
    options = parser.parse_args()

    cases = options.cases or BASIC + (COMPRESSION if options.all else [])
    with contextlib.ExitStack() as stack:
        backend, fuzzer = free_port(), free_port()
        stack.enter_context(process("backend", PEERS_PYTHON, HERE / "backend.py", backend))
        until("the start of the backend", 30, lambda: listening(backend))
        names, listen = ["direct"], None
        if options.gateway != "none":
            executable = pathlib.Path(options.gateway).resolve()
            listen = stack.enter_context(gateway(executable, options.driver, options.tls, backend, fuzzer))
            names.append("gateway")

        passed = failed = 0
        if options.only != "behind":
            started = time.monotonic()
            urls = {"direct": f"ws://127.0.0.1:{backend}", "gateway": f"ws://127.0.0.1:{listen}/echo"}
            found = front({name: urls[name] for name in names}, cases)
            result = compare("front", found)
            print(f"front: {sum(result)} cases in {time.monotonic() - started:.0f} s")
            passed, failed = passed + result[0], failed + result[1]
        if options.only != "front":
            started = time.monotonic()
            # The echo client offers no extension, so groups 12 and 13 have nothing to ask it.
            found = behind(names, fuzzer, listen, [case for case in cases if case not in COMPRESSION])
            result = compare("behind", found)
            print(f"behind: {sum(result)} cases in {time.monotonic() - started:.0f} s")
            passed, failed = passed + result[0], failed + result[1]
    if passed + failed == 0:
        sys.exit("conformance: no case was run")
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
