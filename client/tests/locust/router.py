"""A ROUTER socket controlled by a test: each line of standard input is a message to send, each line of standard output a message received.

    {"to": ID, "message": [TYPE, DATA]}    send a message as Locust's master encodes it
    {"to": ID, "hex": BYTES}               send these bytes
    {"from": ID, "type": TYPE, "data": DATA}    received

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
        command = json.loads(line)
        to = command["to"]
        if "hex" in command:
            payload = bytes.fromhex(command["hex"])
        else:
            payload = msgpack.dumps([*command["message"], to])
        router.send_multipart([to.encode(), payload])
