"""Faults of the network: the link goes, packets get lost, connections are reset, handshakes are never finished.

Run by ../faults in namespaces of its own; each function's text is what it promises.
"""

import subprocess
import sys
import time

from lab import (CLIENT_IP, PORT, SERVER_IP, Program, Wire, books, kernel, longconn_client, longconn_server, main, quiet, run,
                 setting, sockets, total, until)

# What a raw socket sends: forged SYNs from addresses nobody has, or forged resets for every connection there is.
FORGER = r"""
import socket, struct, sys, time
kind, count, server, port, client, first, last = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def total(data):
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF
number = 12345
since = time.monotonic()
for i in range(count):
    # 15,000 a second, so that it lasts.
    if i % 150 == 0:
        time.sleep(max(0, since + i / 15_000 - time.monotonic()))
    number = (number * 6364136223846793005 + 1442695040888963407) % 2**64
    if kind == "syn":
        source, from_port, flags = "10.98.%d.%d" % (i >> 8 & 255, i & 255), 1024 + (number >> 40) % 60000, 2
    else:
        source, from_port, flags = client, int(first) + i % (int(last) - int(first) + 1), 4
    a, b = socket.inet_aton(source), socket.inet_aton(server)
    tcp = struct.pack("!HHIIBBHHH", from_port, port, number >> 32, 0, 80, flags, 65535, 0, 0)
    tcp = tcp[:16] + struct.pack("!H", total(a + b + struct.pack("!BBH", 0, 6, 20) + tcp)) + tcp[18:]
    raw.sendto(struct.pack("!BBHHHBBH4s4s", 69, 0, 40, 0, 0, 64, 6, 0, a, b) + tcp, (server, 0))
print(count, "in", round(time.monotonic() - since, 1), "s")
"""


def forge(wire, kind, count, ports=(1024, 65535)):
    """Starts sending `count` forged packets from the clients' namespace, from ports of a range."""
    words = [sys.executable, "-c", FORGER, kind, count, SERVER_IP, PORT, CLIENT_IP, *ports]
    return subprocess.Popen(["nsenter", f"--net=/proc/{wire.ns}/ns/net", *map(str, words)], stdout=subprocess.PIPE, text=True)


def link(drill):
    """50,000 connections, the link goes down for 8 s and comes up: none is lost, every message sent arrives, those late are said."""
    wire, count = Wire(), 50_000
    start = sockets(wire)
    server = longconn_server("--connections", count, "--every", "2s")
    client = longconn_client("--users", count, "--every", "2s", ns=wire.ns)
    client.open(count)
    server.open(count)
    time.sleep(4)
    rss = server.rss()
    wire.set_link("down")
    time.sleep(2)
    silent = client.last["messages_received"]
    time.sleep(6)
    drill.same("nothing arrives while the link is down", silent, client.last["messages_received"])
    wire.set_link("up")
    since = time.monotonic()
    # Caught up: as many arrive in a second as are due, and nothing that was sent is missing.
    until("all that was sent has arrived", 90,
          lambda: abs(server.last["messages_sent"] - client.last["messages_received"]) <= count // 2
          and kernel()["RetransSegs"] > 0 and client.last["messages_received"] > silent + 3 * count)
    drill.saw(f"8 s down; caught up {time.monotonic() - since:.0f} s after")
    drill.same("client, server and kernel count the same", client.last["open_now"], server.last["open_now"],
               kernel()["CurrEstab"], kernel(wire.ns)["CurrEstab"], count)
    drill.check(server.rss() <= rss + (16 << 20), f"server RSS {rss >> 20} MiB before, {server.rss() >> 20} after")
    code = client.stop()
    server.open(0)
    server.stop()
    books(drill, client, server)
    ended = client.last["ended"]
    drill.same("every message sent was received", server.last["messages_sent"], client.last["messages_received"])
    drill.check(ended.get("held", 0) + ended.get("missed_message", 0) == count, f"none lost: {ended}")
    drill.check(code == 1 and client.last["messages_missed"] > 0, f"late messages are said, exit code 1: {code}")
    quiet(drill, start, wire)
    drill.saw(f"none of {count} lost, {client.last['messages_received']} of {server.last['messages_sent']} messages, "
              f"{client.last['messages_missed']} came when the next was due, {kernel()['RetransSegs']} segments sent again")


def link_long(drill):
    """The link stays down until the kernels give up on 10,000 connections: both ends count each, and all come back when it is up."""
    wire, count = Wire(), 10_000
    for ns in (None, wire.ns):
        setting("net.ipv4.tcp_retries2", 3, ns)
    start = sockets(wire)
    server = longconn_server("--connections", count, "--every", "1s")
    client = longconn_client("--users", count, "--every", "1s", "--send", "up", "--send-every", "1s", "--reconnect",
                             "--connect-timeout", "3s", ns=wire.ns)
    client.open(count)
    server.open(count)
    wire.set_link("down")
    since = time.monotonic()
    client.open(0)
    server.open(0)
    drill.saw(f"all given up on after {time.monotonic() - since:.0f} s")
    lost = dict(server.last["closed"])
    drill.same("server: each lost one in a class", total(lost), count)
    wire.set_link("up")
    since = time.monotonic()
    client.open(count)
    server.open(count)
    drill.saw(f"all back {time.monotonic() - since:.0f} s after it was up")
    drill.same("client, server and kernel count the same", client.last["open_now"], server.last["open_now"],
               kernel()["CurrEstab"], kernel(wire.ns)["CurrEstab"], count)
    client.stop()
    server.open(0)
    server.stop()
    books(drill, client, server)
    drill.check(server.last["accepted"] >= 2 * count and server.last["refused_full"] == 0, "places were free again, none refused")
    quiet(drill, start, wire)
    drill.saw(f"server {lost}, client {client.last['ended']}, attempts meanwhile {client.last['failed']}")


def loss(drill):
    """5% of all packets are dropped both ways, under 10,000 connections that open, beat and close, and HTTP: nothing is lost or wrong."""
    wire, count = Wire(), 10_000
    start = sockets(wire)
    server = longconn_server("--connections", count, "--every", "1s")
    web = Program("holdfast-server", "http", "--listen", "0.0.0.0:8080", "--progress", "json")
    web.until("listening", 30, lambda r: r["listen"])
    wire.lose(5)
    client = longconn_client("--users", count, "--spawn-rate", 2_000, "--every", "1s", "--connect-timeout", "60s", ns=wire.ns)
    asking = Program("holdfast-client", "http", "--target", f"http://{SERVER_IP}:8080/", "--users", 500, "--wait", "100ms",
                     "--connect-timeout", "60s", "--progress", "json", ns=wire.ns)
    client.open(count, 90)
    time.sleep(10)
    asking.stop()
    dropped = wire.lose_nothing()
    # A handshake whose last segment was lost is open for the client first, until the server has asked again.
    server.open(count, 60)
    drill.same("client and server count the same", client.last["open_now"], server.last["open_now"], count)
    # What still waits to be sent again comes within the longest pause that so few losses make.
    time.sleep(8)
    code = client.stop()
    server.open(0)
    server.stop()
    web.open(0)
    web.stop()
    books(drill, client, server)
    drill.check(dropped > 1_000, f"packets were dropped: {dropped}")
    drill.same("none fails", total(client.last["failed"]), 0)
    drill.same("every message sent was received", server.last["messages_sent"], client.last["messages_received"])
    bad = {k: n for k, n in asking.last["outcomes"].items() if k not in ("ok", "stopped")}
    drill.check(not bad, f"no request fails: {bad}")
    drill.same("requests have one outcome each", asking.last["requests"], total(asking.last["outcomes"]))
    under_way = web.last["responses"].get("200", 0) - asking.last["outcomes"]["ok"]
    drill.check(0 <= under_way <= 500, f"requests answered and answers received differ by those under way: {under_way}")
    quiet(drill, start, wire)
    drill.saw(f"{dropped} packets dropped; {client.last['messages_received']} messages, {client.last['messages_missed']} late by an "
              f"interval, exit code {code}; {asking.last['outcomes']['ok']} requests ok")


def resets(drill):
    """20,000 forged resets hit nobody; 5,000 true ones are counted by both ends, each once, and those users come back."""
    wire, count = Wire(), 10_000
    start = sockets(wire)
    server = longconn_server("--connections", count, "--every", "1s")
    ports = (20_000, 29_999)
    client = longconn_client("--users", count, "--every", "1s", "--reconnect", "--ports", "20000-34999", ns=wire.ns)
    client.open(count)
    server.open(count)
    before = kernel()["InSegs"]
    forge(wire, "rst", 20_000, ports).wait(60)
    time.sleep(2)
    arrived = kernel()["InSegs"] - before
    drill.check(arrived >= 20_000 and kernel()["InCsumErrors"] == 0, f"the forged ones arrived whole: {arrived}")
    drill.same("none falls to a forged reset", total(server.last["closed"]), total(client.last["ended"]), 0)
    run("ss", "-K", "-t", "state", "established", "sport", "=", f":{PORT}", "and", "dport", "lt", ":25000")
    client.until("all back", 60, lambda r: r["open_now"] == count and total(r["ended"]) > 0)
    server.open(count)
    drill.same("client, server and kernel count the same", client.last["open_now"], server.last["open_now"],
               kernel()["CurrEstab"], kernel(wire.ns)["CurrEstab"], count)
    hit = server.last["closed"].get("reset", 0)
    drill.same("resets at the server, at the client", hit, client.last["ended"].get("reset", 0))
    drill.check(4_000 <= hit <= 5_000, f"as many as had such a port: {hit}")
    client.stop()
    server.open(0)
    server.stop()
    books(drill, client, server)
    drill.same("opened = users + those that came back", client.last["opened"], count + hit, server.last["accepted"])
    quiet(drill, start, wire)
    drill.saw(f"{arrived} segments while 20,000 were forged, none hit; {hit} true ones counted at both ends, all back")


def half_open(drill):
    """A flood of 300,000 SYNs from forged sources: 5,000 users get in meanwhile, none fails, no place is taken by a handshake."""
    wire, count = Wire(), 5_000
    run("ip", "route", "add", "10.98.0.0/16", "via", CLIENT_IP)
    setting("net.ipv4.tcp_synack_retries", 1)
    start = sockets(wire)
    server = longconn_server("--connections", count, "--every", "1s")
    floods = [forge(wire, "syn", 150_000) for _ in range(2)]
    time.sleep(1)
    client = longconn_client("--users", count, "--spawn-rate", 1_000, "--every", "1s", ns=wire.ns)
    client.open(count, 60)
    server.open(count)
    is_during = [flood.poll() is None for flood in floods]
    said = [flood.communicate(timeout=120)[0].strip() for flood in floods]
    counts = kernel()
    drill.check(any(is_during), f"they got in while it was going on: {said}")
    drill.check(counts["SyncookiesSent"] > 0, "the flood overran the queue of handshakes")
    time.sleep(3)
    drill.same("client, server and kernel count the same", client.last["open_now"], server.last["open_now"],
               kernel()["CurrEstab"], kernel(wire.ns)["CurrEstab"], count)
    until("no handshake waits any more", 60, lambda: not run("ss", "-Htn", "state", "syn-recv").strip())
    code = client.stop()
    server.open(0)
    server.stop()
    books(drill, client, server)
    drill.same("accepted only who exists", server.last["accepted"], count)
    drill.same("none refused, none failed", server.last["refused_full"], total(client.last["failed"]), 0)
    drill.same("messages sent, received", server.last["messages_sent"], client.last["messages_received"])
    quiet(drill, start, wire)
    slowest = client.last["connect_us"]["max"]
    drill.saw(f"{' and '.join(said)}; {counts['SyncookiesSent']} cookies sent; users in within {slowest / 1000:.0f} ms at most, "
              f"exit code {code}")


main({"link": link, "link-long": link_long, "loss": loss, "resets": resets, "half-open": half_open})
