"""Faults of processes: killed, stopped for longer than the time-outs, nobody reads what they say, clocks elsewhere, a full disk.

Run by ../faults in namespaces of its own; each function's text is what it promises.
"""

import json
import os
import signal
import subprocess
import time

from lab import (BIN, PORT, Program, books, kernel, longconn_client, longconn_server, main, quiet, run, sockets, total, until)

LOCAL = f"127.0.0.1:{PORT}"


def lo():
    run("ip", "link", "set", "lo", "up")


def killed(drill):
    """HTTP, client killed, then server killed: places are free again; each request and connection has one class; the server that
    comes next is found. (Long connections: `make drill`, at a million.)"""
    lo()
    start = sockets()
    web = lambda: Program("holdfast-server", "http", "--listen", "0.0.0.0:8080", "--connections", 5_000, "--progress", "json")
    ask = lambda: Program("holdfast-client", "http", "--target", "http://127.0.0.1:8080/", "--users", 5_000, "--wait", "200ms",
                          "--progress", "json")
    server = web()
    server.until("listening", 30, lambda r: r["listen"])
    client = ask()
    server.open(5_000)
    client.kill()
    since = time.monotonic()
    last = server.open(0)
    drill.saw(f"client killed: 5000 places free after {time.monotonic() - since:.1f} s")
    drill.same("each in a class", last["accepted"], total(last["closed"]))
    client = ask()
    client.open(5_000)
    server.kill()
    client.until("all lost", 60, lambda r: r["open_now"] == 0)
    server = web()
    answered = client.until("a failure", 10, lambda r: total(r["outcomes"]) > r["outcomes"].get("ok", 0))["outcomes"]["ok"]
    client.until("answers again", 60, lambda r: r["open_now"] == 5_000 and r["outcomes"]["ok"] > answered)
    code = client.stop()
    server.open(0)
    server.stop()
    ours = client.last
    drill.same("requests have one outcome each", ours["requests"], total(ours["outcomes"]))
    drill.same("attempts have one end each", ours["attempts"], ours["opened"] + total(ours["failed"]))
    drill.same("exit code", code, 1)
    quiet(drill, start)
    drill.saw(f"server killed: {({k: n for k, n in ours['outcomes'].items() if k != 'ok'})}, and served by the next one")


def stopped_server(drill):
    """The server stands still for 6 s, six heartbeats long, while users wait and others come: none is lost, the beats it left out are
    what users missed, newcomers get in afterwards; HTTP requests that took longer than --timeout are said to have."""
    lo()
    start = sockets()
    count = 10_000
    server = longconn_server("--connections", 2 * count, "--every", "1s")
    web = Program("holdfast-server", "http", "--listen", "0.0.0.0:8080", "--progress", "json")
    web.until("listening", 30, lambda r: r["listen"])
    client = longconn_client("--users", count, "--every", "1s", target=LOCAL)
    asking = Program("holdfast-client", "http", "--target", "http://127.0.0.1:8080/", "--users", 500, "--wait", "100ms",
                     "--timeout", "2s", "--progress", "json")
    client.open(count)
    asking.open(500)
    time.sleep(2)
    server.signal(signal.SIGSTOP)
    web.signal(signal.SIGSTOP)
    late = longconn_client("--users", count // 2, "--every", "1s", "--source", "127.0.0.9", target=LOCAL)
    time.sleep(6)
    server.signal(signal.SIGCONT)
    web.signal(signal.SIGCONT)
    server.open(count + count // 2)
    client.open(count)
    late.open(count // 2)
    drill.same("kernel's pairs", kernel()["CurrEstab"] // 2 - asking.last["open_now"], count + count // 2)
    timed_out = asking.until("time-outs", 20, lambda r: r["outcomes"].get("timed_out", 0) > 0)["outcomes"]["timed_out"]
    ok = asking.last["outcomes"]["ok"]
    asking.until("answers again", 30, lambda r: r["outcomes"]["ok"] > ok + 1_000)
    time.sleep(2)
    for one in (late, client, asking):
        one.stop()
    server.open(0)
    server.stop()
    web.open(0)
    web.stop()
    books(drill, client, server)
    held = client.last["ended"].get("held", 0) + client.last["ended"].get("missed_message", 0)
    drill.same("none lost", held, count)
    drill.same("newcomers held", total(late.last["ended"]), count // 2, late.last["opened"])
    got = client.last["messages_received"] + late.last["messages_received"]
    drill.same("messages sent, received", server.last["messages_sent"], got)
    left_out = server.last["anomalies"]["messages_skipped"]
    missed = client.last["messages_missed"] + late.last["messages_missed"]
    drill.check(abs(missed - left_out) <= count // 2, f"beats left out are those missed: {left_out} and {missed}")
    drill.same("requests have one outcome each", asking.last["requests"], total(asking.last["outcomes"]))
    quiet(drill, start)
    drill.saw(f"none of {count} lost, {count // 2} came meanwhile; {left_out} beats left out, {missed} missed; "
              f"{timed_out} requests timed out")


def stopped_client(drill):
    """The client stands still for 8 s, longer than the server's idle time-out of 3 s: the server ends each as idle, the client counts
    each end when it wakes, and its users come back."""
    lo()
    start = sockets()
    count = 10_000
    server = longconn_server("--connections", count, "--every", "1s", "--idle-timeout", "3s")
    client = longconn_client("--users", count, "--every", "1s", "--send", "up", "--send-every", "500ms", "--reconnect", target=LOCAL)
    client.open(count)
    server.open(count)
    client.signal(signal.SIGSTOP)
    time.sleep(8)
    drill.same("server ended each as idle", server.last["closed"].get("idle", 0), count)
    client.signal(signal.SIGCONT)
    client.until("ends counted and all back", 60, lambda r: total(r["ended"]) >= count and r["open_now"] == count)
    server.open(count)
    drill.same("kernel's pairs", kernel()["CurrEstab"] // 2, count)
    client.stop()
    server.open(0)
    server.stop()
    books(drill, client, server)
    quiet(drill, start)
    drill.saw(f"server {server.last['closed']}, client {client.last['ended']}")


def deaf_control(drill):
    """Nobody reads standard output, the pipe is full: 10,000 users hear every beat in time, SIGTERM still ends both in order, the
    figures are in the --json files, and that they could not be printed is said."""
    lo()
    start = sockets()
    count = 10_000
    pipes = [os.pipe(), os.pipe()]
    for _, write in pipes:
        os.set_blocking(write, False)
        try:
            while True:
                os.write(write, b"\n" * 4096)
        except BlockingIOError:
            os.set_blocking(write, True)
    files = [f"/dev/shm/{os.getpid()}-{name}.json" for name in ("server", "client")]
    server = Program("holdfast-server", "longconn", "--listen", LOCAL, "--connections", count, "--every", "500ms",
                     "--progress", "json", "--json", files[0], stdout=pipes[0][1])
    until("listening", 30, lambda: run("ss", "-Htln", "sport", "=", f":{PORT}").strip())
    client = Program("holdfast-client", "longconn", "--target", LOCAL, "--users", count, "--every", "500ms",
                     "--progress", "json", "--json", files[1], stdout=pipes[1][1])
    until("all open", 60, lambda: kernel()["CurrEstab"] == 2 * count)
    time.sleep(10)
    code = client.stop(90)
    code_server = server.stop(90)
    reports = []
    for file in files:
        with open(file) as text:
            reports.append(json.load(text))
        os.unlink(file)
    server.last, client.last = reports
    books(drill, client, server)
    drill.same("all held", client.last["ended"].get("held", 0), count)
    drill.same("messages sent, received", server.last["messages_sent"], client.last["messages_received"])
    drill.same("exit codes: what nobody read is said", code, code_server, 2)
    drill.check("nobody reads standard output" in server.errors, f"in one line: {server.errors}")
    drill.same("missed, left out", client.last["messages_missed"], server.last["anomalies"]["messages_skipped"], 0)
    quiet(drill, start)
    drill.saw(f"{client.last['messages_received']} messages, late by {client.last['lateness_us']['p99'] / 1000:.1f} ms (p99), "
              f"exit codes {code_server} and {code}")


def clocks(drill):
    """In a time namespace 11 days ahead of this one (CLOCK_MONOTONIC, CLOCK_BOOTTIME) all is as elsewhere. Steps of the wall clock are
    not drilled: they would hit the whole machine. Nothing but dates and file names reads it, which `make lint` enforces."""
    lo()
    start = sockets()
    ahead = ["unshare", "--time", "--monotonic", "1000000", "--boottime", "1000000", "--fork", "--kill-child", "--"]
    server = longconn_server("--connections", 1_000, "--every", "200ms")
    client = longconn_client("--users", 1_000, "--every", "200ms", "--run-time", "5s", target=LOCAL, before=ahead)
    code = client.ended(60)
    server.open(0)
    server.stop()
    books(drill, client, server)
    drill.same("exit code", code, 0)
    drill.same("all held", client.last["ended"].get("held", 0), 1_000)
    drill.same("messages sent, received", server.last["messages_sent"], client.last["messages_received"])
    quiet(drill, start)
    drill.saw(f"{client.last['messages_received']} messages across two clocks, late by {client.last['lateness_us']['p99']} us (p99)")


def disk_full(drill):
    """The disk of --runs is full in the middle of a run: the run goes on to its end, says what could not be written and exits with 1;
    nothing of it still runs. --json on a full disk: the figures are printed, the error names the file, exit code 2."""
    lo()
    disk = "/mnt"
    run("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk)
    bench = subprocess.Popen([f"{BIN}/holdfast-bench", "longconn", "--users", "1000", "--every", "1s", "--hold", "5s", "--runs",
                              f"{disk}/runs", "--bin-dir", BIN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until("a folder", 30, lambda: os.path.exists(f"{disk}/runs") and os.listdir(f"{disk}/runs"))
    time.sleep(4)
    try:
        with open(f"{disk}/filler", "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
    except OSError:
        pass
    out, errors = bench.communicate(timeout=90)
    said = [line for line in errors.splitlines() if "error" in line.lower() or "warning" in line.lower()]
    drill.same("exit code of the bench", bench.returncode, 1)
    drill.check("No space left" in errors and "next:" in errors, f"the error is clear: {errors[-500:]}")
    drill.check("1,000" in out, f"the result is printed all the same: {out[-300:]}")
    drill.check(not [d for d in os.listdir(f"{disk}/runs") if os.path.exists(f"{disk}/runs/{d}/run.json")], "no half record")
    left = run("ps", "-eo", "comm", is_checked=False) or " ".join(
        open(f"/proc/{p}/comm").read() for p in os.listdir("/proc") if p.isdigit())
    drill.check("holdfast" not in left, f"nothing still runs: {left}")
    server = longconn_server("--json", f"{disk}/server.json")
    code = server.stop()
    drill.same("exit code with --json", code, 2)
    drill.check(server.last.get("is_final") and "No space left" in server.errors and "server.json" in server.errors,
                f"printed and named: {server.errors}")
    drill.saw(" | ".join([*said, server.errors.strip()])[:400])


main({"killed": killed, "stopped-server": stopped_server, "stopped-client": stopped_client, "deaf-control": deaf_control,
      "clocks": clocks, "disk-full": disk_full})
