"""Limits hit in the middle of a run: descriptors, memory of a control group, the kernel's memory for TCP.

Run by ../faults in namespaces of its own; each function's text is what it promises.
"""

import os
import subprocess
import time

from lab import (BIN, PORT, Fell, books, kernel, longconn_client, longconn_server, main, quiet, run, sockets, total)

LOCAL = f"127.0.0.1:{PORT}"


def lo():
    run("ip", "link", "set", "lo", "up")


def limit(program, soft):
    run("prlimit", "--pid", program.process.pid, f"--nofile={soft}:")


def descriptors(drill):
    """The descriptor limit of a running server falls to 10: who is held stays held, newcomers beyond the rings there are get reset
    and counted; when it rises again, as many as asked for are held, no restart. The same at a client: no_descriptor, then all open."""
    lo()
    start = sockets()
    server = longconn_server("--connections", 8_000, "--ring-slots", 1_000, "--every", "1s")
    first = longconn_client("--users", 1_500, "--every", "1s", "--source", "127.0.0.2", target=LOCAL)
    first.open(1_500)
    server.open(1_500)
    limit(server, 10)
    rest = longconn_client("--users", 6_000, "--reconnect", "--reconnect-pause", "200ms", "--every", "1s", "--source", "127.0.0.3",
                           target=LOCAL)
    server.until("some refused", 60, lambda r: r["anomalies"].get("unexpected", 0) > 0)
    rest.until("some turned away", 60, lambda r: r["ramp_done"] and total(r["ended"]) + total(r["failed"]) > 500)
    drill.same("who was held is held", first.last["open_now"], 1_500)
    held = server.last["open_now"]
    drill.check(1_500 < held < 7_500, f"the rings there are fill up: {held}")
    limit(server, 20_000)
    rest.open(6_000)
    server.open(7_500)
    drill.same("kernel's pairs", kernel()["CurrEstab"] // 2, 7_500)
    code = first.stop()
    rest.stop()
    server.open(0)
    server.stop()
    # Rings that could not be made are the anomaly; nothing else may be.
    said = server.last["anomalies"].pop("unexpected")
    books(drill, rest, server)
    drill.same("exit code of who was there before", code, 0)
    quiet(drill, start)
    drill.saw(f"{held} held at a limit of 10 ({said} rings not to be had, {total(rest.last['ended']) - 6000} users turned away), "
              "7500 when it rose")

    server = longconn_server("--connections", 8_000, "--every", "1s")
    client = longconn_client("--users", 6_000, "--spawn-rate", 2_000, "--ring-slots", 1_000, "--reconnect", "--every", "1s",
                             target=LOCAL)
    client.until("on the way", 30, lambda r: r["opened"] > 0)
    limit(client, 10)
    last = client.until("no descriptor", 30, lambda r: r["failed"].get("no_descriptor", 0) > 0)
    limit(client, 20_000)
    client.open(6_000)
    client.stop()
    server.open(0)
    server.stop()
    client.last["anomalies"].pop("unexpected")
    books(drill, client, server)
    quiet(drill, start)
    drill.saw(f"client: {last['open_now']} open when none was left, 6000 when it rose, {client.last['failed']}")


class Group:
    """A control group of memory, version 1 or 2, made by ../faults, which removes it. `None` where there is none."""

    def __init__(self):
        self.path = os.environ.get("FAULTS_GROUP")
        if not self.path:
            raise Fell("no memory control group can be made here (root, and /sys/fs/cgroup writable)")
        self.is_v1 = os.path.exists(f"{self.path}/memory.limit_in_bytes")

    def read(self, name):
        with open(f"{self.path}/{name}") as file:
            return file.read()

    def set_limit(self, size):
        with open(f"{self.path}/{'memory.limit_in_bytes' if self.is_v1 else 'memory.max'}", "w") as file:
            file.write(str(size))

    def used(self):
        return int(self.read("memory.usage_in_bytes" if self.is_v1 else "memory.current"))

    def kills(self):
        text = self.read("memory.oom_control" if self.is_v1 else "memory.events")
        return dict(line.split() for line in text.splitlines())["oom_kill"]

    def before(self):
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs; exec "$@"', "sh"]


def memory(drill):
    """The server's control group runs out of memory while connections come: the kernel kills it, as it says; the client counts each
    connection and attempt in one class and exits with 1; nothing is left; with enough memory the next server holds all."""
    lo()
    start = sockets()
    group = Group()
    count = 20_000
    group.set_limit(512 << 20)
    server = longconn_server("--connections", count, "--every", "1s", before=group.before())
    client = longconn_client("--users", count, "--spawn-rate", 5_000, "--every", "1s", "--run-time", "60s", target=LOCAL)
    # Not sooner: a server that finds too little memory at its start says what fits and does not begin.
    server.until("on the way", 30, lambda r: r["open_now"] > 2_000)
    group.set_limit(group.used() + (8 << 20))
    code = server.ended(60)
    drill.same("the kernel ended the server", code, -9)
    drill.check(int(group.kills()) >= 1, f"and its group says so: {group.kills()}")
    code = client.ended(90)
    ours = client.last
    drill.same("exit code of the client", code, 1)
    drill.same("attempts = opened + failed", ours["attempts"], ours["opened"] + total(ours["failed"]), count)
    drill.same("opened = ended", ours["opened"], total(ours["ended"]))
    quiet(drill, start)
    drill.saw(f"killed at {server.last['open_now']} held; client: opened {ours['opened']}, {ours['ended']}, "
              f"failed {ours['failed']}")
    group.set_limit(512 << 20)
    server = longconn_server("--connections", count, "--every", "1s", before=group.before())
    client = longconn_client("--users", count, "--every", "1s", target=LOCAL)
    client.open(count)
    server.open(count)
    used = group.used()
    code = client.stop()
    server.open(0)
    server.stop()
    books(drill, client, server)
    drill.check(code == 0, f"exit code of the second client {code} instead of 0: {client.last['ended']}, {client.last['failed']}")
    quiet(drill, start)
    drill.saw(f"in 512 MiB all {count} held, {used / count:.0f} bytes each charged to the group")


def tcp_mem(drill):
    """The machine's memory for TCP is all but nothing for 4 s, under 2,000 connections with 20,000 messages a second: each connection
    lost is counted by both ends, those kept go on, and when it is back new ones open as before."""
    lo()
    start = sockets()
    state, profile = os.environ["FAULTS_STATE"], f"/dev/shm/{os.getpid()}-faults.conf"
    outer = ["nsenter", f"--net=/proc/self/fd/{os.environ['FAULTS_OUTER_NET']}"]

    def tune(*words):
        subprocess.run([*outer, f"{BIN}/holdfast-tune", *words, "--state", state], pass_fds=[int(os.environ["FAULTS_OUTER_NET"])],
                       check=True, capture_output=True, timeout=30)

    def sizes():
        return subprocess.run([*outer, "cat", "/proc/sys/net/ipv4/tcp_mem"], pass_fds=[int(os.environ["FAULTS_OUTER_NET"])],
                              capture_output=True, text=True, timeout=30).stdout.split()

    count = 2_000
    before = sizes()
    server = longconn_server("--connections", 2 * count, "--every", "100ms", "--message", "x" * 4_096)
    client = longconn_client("--users", count, "--every", "100ms", "--expect", "x" * 4_096, "--reconnect", target=LOCAL)
    client.open(count)
    server.open(count)
    with open(profile, "w") as file:
        file.write("net.ipv4.tcp_mem = 64 128 256\n")
    try:
        tune("apply", "--exact", "--yes", "--profile", profile)
        time.sleep(4)
    finally:
        tune("restore")
        os.unlink(profile)
    drill.check(before == sizes(), "the setting is back")
    pressure = kernel()["TCPMemoryPressures"]
    client.open(count, 60)
    server.open(count, 60)
    received = client.last["messages_received"]
    client.until("messages go on", 20, lambda r: r["messages_received"] > received + 10 * count)
    client.stop()
    server.open(0)
    server.stop()
    books(drill, client, server)
    drill.check(pressure > 0, "the kernel was short of it")
    quiet(drill, start)
    lost = {k: n for k, n in client.last["ended"].items() if k not in ("held", "missed_message")}
    drill.saw(f"pressure entered {pressure} times; server {server.last['closed']}, client {client.last['ended']}, lost {total(lost)}, "
              f"late {client.last['messages_missed']}, {server.last['anomalies']['sends_short']} sends taken in part")


main({"descriptors": descriptors, "memory": memory, "tcp-mem": tcp_mem})
