"""Declares the user classes of `holdfast-client worker` and their arguments for Locust's master.

The master only needs the names of the classes and of the arguments, which it sends to the workers; it runs no task. For the meaning and the
accepted values of an argument see `holdfast-client longconn --help` and `holdfast-client http --help`. An empty argument means the default.

    locust -f client/locust/locustfile.py --master --host 192.0.2.1:7070
"""

from locust import User, events, task


@events.init_command_line_parser.add_listener
def add_arguments(parser):
    """Each argument is a flag of the master and a field of the web form."""

    # Not in a group of their own: the web form shows only what is added to the parser itself.
    def add(name, default, text, **more):
        parser.add_argument(name, default=default, help=text, **more)

    add("--longconn-host", "", "LongConn: connect to HOST:PORT, several separated by commas [default: the host]")
    add("--longconn-every", "0s", "LongConn: expect a message at this interval; 0s expects none")
    add("--longconn-expect", "ok", "LongConn: expect this text in each message; empty accepts anything")
    add("--longconn-send", "", "LongConn: send this text to the server; empty sends nothing")
    add("--longconn-send-every", "30s", "LongConn: send at this interval")
    add("--longconn-reconnect-pause", "500ms", "LongConn: pause before the first reconnect; doubles up to a minute")
    add("--http-host", "", "Http: send requests to http://HOST:PORT [default: the host]")
    add("--http-path", "/", "Http: path and query of the requests")
    add("--http-wait", "100ms..1s", "Http: wait this long between a response and the next request")
    add("--http-method", "GET", "Http: method of the requests", choices=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    add("--http-body", "", "Http: body of the requests")
    add("--http-expect-status", "2xx", "Http: accept these status codes")
    add("--http-expect-body", "", "Http: expect this text as each body; empty accepts any complete body")
    add("--http-timeout", "30s", "Http: fail a request without a response after this time")
    add("--http-keepalive", "yes", "Http: no opens a new connection for each request", choices=["yes", "no"])
    add("--source", "", "connect from these source addresses: FIRST-LAST, a range such as 127.0.1.0/28, or auto [default: the worker's own flag]")
    add("--ports", "", "use these source ports of each address, FIRST-LAST [default: the worker's own flag]")


class LongConn(User):
    """Keeps a connection open and checks the messages it receives."""

    @task
    def hold(self):
        """Runs in `holdfast-client worker`."""
        raise NotImplementedError("these users run in holdfast-client worker; start it, not a Python worker")


class Http(User):
    """Sends a request, checks the response, waits, repeats."""

    @task
    def ask(self):
        """Runs in `holdfast-client worker`."""
        raise NotImplementedError("these users run in holdfast-client worker; start it, not a Python worker")
