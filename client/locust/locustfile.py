"""The user classes of `holdfast-client worker`, for Locust's master.

The master runs none of this: it needs the names of the classes, and the arguments that reach the workers. What an argument means, and
what it may be, says `holdfast-client longconn --help` and `holdfast-client http --help`; one that is empty is as if it was not given.

    locust -f client/locust/locustfile.py --master --host 192.0.2.1:7070
"""

from locust import User, events, task


@events.init_command_line_parser.add_listener
def add_arguments(parser):
    """Each argument is a flag of the master and a field of the web form."""

    # Not in a group of their own: the web form shows only what is added to the parser itself.
    def add(name, default, text, **more):
        parser.add_argument(name, default=default, help=text, **more)

    add("--longconn-host", "", "LongConn: HOST:PORT to connect to, several by commas [default: the host]")
    add("--longconn-every", "0s", "LongConn: interval messages are expected at; 0s expects none")
    add("--longconn-expect", "ok", "LongConn: what each message must be; empty accepts anything")
    add("--longconn-send", "", "LongConn: send this upward")
    add("--longconn-send-every", "30s", "LongConn: how often each user sends")
    add("--longconn-reconnect-pause", "500ms", "LongConn: pause before the first reconnect; it doubles up to a minute")
    add("--http-host", "", "Http: http://HOST:PORT to ask [default: the host]")
    add("--http-path", "/", "Http: path and query")
    add("--http-wait", "100ms..1s", "Http: how long a user waits between an answer and its next request")
    add("--http-method", "GET", "Http: method of the requests", choices=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    add("--http-body", "", "Http: body of the requests")
    add("--http-expect-status", "2xx", "Http: right status codes")
    add("--http-expect-body", "", "Http: what each body must be; empty accepts anything complete")
    add("--http-timeout", "30s", "Http: how long an answer may take")
    add("--http-keepalive", "yes", "Http: no makes a new connection for each request", choices=["yes", "no"])
    add("--source", "", "source addresses: FIRST-LAST, a range such as 127.0.1.0/28, or auto [default: the worker's own flag]")
    add("--ports", "", "source ports of each address, FIRST-LAST [default: the worker's own flag]")


class LongConn(User):
    """Connects once, then receives and checks what the server pushes."""

    @task
    def hold(self):
        """Done by `holdfast-client worker`."""
        raise NotImplementedError("these users run in holdfast-client worker; start it, not a Python worker")


class Http(User):
    """Asks, waits for the answer, checks it, waits, asks again."""

    @task
    def ask(self):
        """Done by `holdfast-client worker`."""
        raise NotImplementedError("these users run in holdfast-client worker; start it, not a Python worker")
