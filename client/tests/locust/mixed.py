"""A Python user class named like one of the worker's: for a test with workers of both kinds."""

import socket as plain
import time

from locust import User, events, task


@events.init_command_line_parser.add_listener
def add_arguments(parser):
    parser.add_argument("--longconn-every", default="0s")


class LongConn(User):
    @task
    def hold(self):
        host, port = self.host.split(":")
        began = time.monotonic()
        with plain.create_connection((host, int(port))) as connection:
            took_ms = (time.monotonic() - began) * 1000
            self.environment.events.request.fire(
                request_type="TCP", name="connect", response_time=took_ms, response_length=0, exception=None, context={}
            )
            while message := connection.recv(2):
                self.environment.events.request.fire(
                    request_type="TCP", name="recv", response_time=0, response_length=len(message), exception=None, context={}
                )
