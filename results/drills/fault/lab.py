"""What the drills stand on: two namespaces joined by a wire, our programs with their reports, the kernel's own counts.

Invariants: every wait is bounded; everything runs in the namespaces of the drill, so that nothing outlives it.
Must not know: which fault is drilled.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

BIN = os.environ["BIN_DIR"]
SERVER_IP, CLIENT_IP = "10.99.0.1", "10.99.0.2"
PORT = 7070


class Fell(Exception):
    """The drill cannot go on."""


class Drill:
    """Checks and figures of one drill."""

    def __init__(self):
        self.failures, self.figures = [], []

    def check(self, is_so, promise):
        if not is_so:
            self.failures.append(promise)
        return is_so

    def same(self, what, *values):
        self.check(len(set(values)) == 1, f"{what}: {' / '.join(map(str, values))}")

    def saw(self, text):
        self.figures.append(text)


def run(*command, ns=None, is_checked=True):
    """A short command; its output."""
    done = subprocess.run([*enter(ns), *map(str, command)], capture_output=True, text=True, timeout=60)
    if is_checked and done.returncode:
        raise Fell(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def enter(ns):
    return ["nsenter", f"--net=/proc/{ns}/ns/net"] if ns else []


def until(what, seconds, is_so):
    """Waits until it is so; what it then was."""
    deadline = time.monotonic() + seconds
    while True:
        value = is_so()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Fell(f"not within {seconds} s: {what}")
        time.sleep(0.1)


class Wire:
    """The drill's own namespace, where servers are, and another one for clients, joined by veth."""

    def __init__(self):
        self.peer = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        until("a second namespace", 10, lambda: os.readlink(f"/proc/{self.peer.pid}/ns/net") != own)
        self.ns = self.peer.pid
        run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", self.ns)
        for ns, name, address in [(None, "near", SERVER_IP), (self.ns, "far", CLIENT_IP)]:
            run("ip", "link", "set", "lo", "up", ns=ns)
            run("ip", "address", "add", f"{address}/16", "dev", name, ns=ns)
            run("ip", "link", "set", name, "up", ns=ns)

    def set_link(self, state):
        run("ip", "link", "set", "far", state, ns=self.ns)

    def lose(self, percent):
        """Drops packets at random on arrival, both ways: a classic BPF filter of tc that asks for a random number. No netem is needed."""
        limit = round(2**32 * percent / 100)
        # ld rand; jge limit -> keep; ret TC_ACT_SHOT; ret TC_ACT_OK
        program = f"4,32 0 0 {0xFFFFF038},53 1 0 {limit},6 0 0 2,6 0 0 0"
        for ns, name in [(None, "near"), (self.ns, "far")]:
            run("tc", "qdisc", "add", "dev", name, "clsact", ns=ns)
            run("tc", "filter", "add", "dev", name, "ingress", "bpf", "da", "bytecode", program, ns=ns)

    def lose_nothing(self):
        """Ends the loss; packets that were dropped."""
        dropped = 0
        for ns, name in [(None, "near"), (self.ns, "far")]:
            text = run("tc", "-s", "qdisc", "show", "dev", name, "clsact", ns=ns)
            dropped += sum(map(int, re.findall(r"dropped (\d+)", text)))
            run("tc", "qdisc", "del", "dev", name, "clsact", ns=ns)
        return dropped


def setting(key, value, ns=None):
    path = "/proc/sys/" + key.replace(".", "/")
    run("sh", "-c", f"echo '{value}' > {path}", ns=ns)


def kernel(ns=None):
    """The kernel's counts of one namespace: established, sockets of TCP but those in TIME_WAIT, and the TcpExt and Tcp counters."""
    base = f"/proc/{ns or 'self'}/net/"
    counts = {}
    for name in ("snmp", "netstat"):
        with open(base + name) as file:
            lines = file.read().splitlines()
        for head, values in zip(lines[::2], lines[1::2]):
            if head.split(":")[0] in ("Tcp", "TcpExt"):
                counts |= dict(zip(head.split()[1:], map(int, values.split()[1:])))
    with open(base + "sockstat") as file:
        counts["sockets"] = int(re.search(r"TCP: inuse (\d+)", file.read()).group(1))
    return counts


class Program:
    """One of ours, its reports as they come."""

    def __init__(self, name, *args, ns=None, stdout=None, before=()):
        command = [*enter(ns), *before, f"{BIN}/{name}", *map(str, args)]
        self.reports_from = stdout is None
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True,
                                        stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE)
        self.last, self.errors, self.name = {}, "", " ".join([name, str(args[0])])
        self.threads = [threading.Thread(target=self.hear_errors, daemon=True)]
        if self.reports_from:
            self.threads.append(threading.Thread(target=self.hear, daemon=True))
        for thread in self.threads:
            thread.start()

    def hear(self):
        for line in self.process.stdout:
            self.last = json.loads(line)

    def hear_errors(self):
        for line in self.process.stderr:
            self.errors += line

    def until(self, what, seconds, is_so):
        """Waits for a report that is so; it."""
        def look():
            if self.last and is_so(self.last):
                return self.last
            if self.process.poll() is not None:
                raise Fell(f"{self.name} ended with {self.process.returncode} before: {what}; {self.errors.strip()} {self.last}")
            return None
        try:
            return until(f"{self.name}: {what}", seconds, look)
        except Fell as fell:
            raise Fell(f"{fell}; {brief(self.last)}") from None

    def open(self, count, seconds=120):
        return self.until(f"{count} open", seconds, lambda r: r["open_now"] == count)

    def signal(self, number):
        self.process.send_signal(number)

    def ended(self, seconds=60):
        """Waits for the end; its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Fell(f"{self.name} still runs after {seconds} s") from None
        for thread in self.threads:
            thread.join(10)
        return code

    def stop(self, seconds=60):
        self.signal(signal.SIGTERM)
        return self.ended(seconds)

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.ended(120)

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) * 1024


def brief(report):
    keys = ("open_now", "opened", "accepted", "attempts", "failed", "ended", "closed", "refused_full", "anomalies", "outcomes")
    return {key: report[key] for key in keys if key in report}


def longconn_server(*args, **more):
    server = Program("holdfast-server", "longconn", "--listen", f"0.0.0.0:{PORT}", "--progress", "json", *args, **more)
    server.until("listening", 30, lambda r: r["listen"])
    return server


def longconn_client(*args, target=f"{SERVER_IP}:{PORT}", **more):
    return Program("holdfast-client", "longconn", "--target", target, "--progress", "json", *args, **more)


def total(counts):
    return sum(counts.values())


def books(drill, client, server):
    """The accounts of both ends after their end: every attempt, every connection, every message in one class."""
    ours, theirs = client.last, server.last
    drill.check(ours.get("is_final") and theirs.get("is_final"), "both leave a final report")
    drill.same("attempts = opened + failed", ours["attempts"], ours["opened"] + total(ours["failed"]))
    drill.same("opened = ended", ours["opened"], total(ours["ended"]))
    drill.same("accepted = closed, none open", theirs["accepted"], total(theirs["closed"]) + theirs["open_now"])
    drill.same("no slot is left", theirs["open_now"], ours["open_now"], 0)
    drill.same("no wrong message", ours["messages_wrong"], 0)
    for end in (ours, theirs):
        drill.same("nothing unexpected, no full queue", end["anomalies"].get("unexpected", 0), 0)


def quiet(drill, start, wire=None, seconds=30):
    """No socket is left in the kernel: both namespaces count what they did at the start. TIME_WAIT is no socket any more."""
    places = [None] + ([wire.ns] if wire else [])
    try:
        until("sockets as at the start", seconds, lambda: [kernel(ns)["sockets"] for ns in places] == start)
    except Fell:
        drill.same("sockets left in the kernel", start, [kernel(ns)["sockets"] for ns in places])


def sockets(wire=None):
    return [kernel()["sockets"]] + ([kernel(wire.ns)["sockets"]] if wire else [])


def main(drills):
    """Runs one drill in here: prints its line, exits 1 if it fell short."""
    name = sys.argv[1]
    drill = Drill()
    since = time.monotonic()
    try:
        drills[name](drill)
    except Fell as fell:
        drill.failures.append(str(fell))
    except KeyboardInterrupt:
        os._exit(130)
    word = "FAIL" if drill.failures else "pass"
    text = "; ".join([*(f"NOT {f}" for f in drill.failures), *drill.figures])
    print(f"{word}  {name}: {text} ({time.monotonic() - since:.0f} s)", flush=True)
    os._exit(bool(drill.failures))
