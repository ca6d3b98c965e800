"""A ROUTER socket that says what it is told: each line of standard input is an order, each line of standard output what a worker sent.

    {"to": ID, "message": [TYPE, DATA]}    a message as Locust's master packs it
    {"to": ID, "hex": BYTES}               these bytes
    {"from": ID, "type": TYPE, "data": DATA}    is what comes out

Ends with its standard input.
"""
import json
import sys

import msgpack
import zmq

router = zmq.Context().socket(zmq.ROUTER)
router.bind(f"tcp://{sys.argv[1]}")
poller = zmq.Poller()
poller.register(router, zmq.POLLIN)
poller.register(sys.stdin.fileno(), zmq.POLLIN)
while True:
    ready = dict(poller.poll())
    if router in ready:
        identity, payload = router.recv_multipart()
        kind, data, node = msgpack.loads(payload, raw=False, strict_map_key=False)
        assert node == identity.decode()
        print(json.dumps({"from": node, "type": kind, "data": data}), flush=True)
    if sys.stdin.fileno() in ready:
        line = sys.stdin.buffer.raw.readline()
        if not line:
            break
        order = json.loads(line)
        to = order["to"]
        if "hex" in order:
            payload = bytes.fromhex(order["hex"])
        else:
            payload = msgpack.dumps([*order["message"], to])
        router.send_multipart([to.encode(), payload])
