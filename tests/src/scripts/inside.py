"""A process in a compartment that does what a test says: one Python expression or statement in each message on standard
input, a socket; one line of JSON back, with the descriptor of a socket if that is the value."""

import errno
import json
import socket
import sys

wire = socket.socket(fileno=0)
# Sockets that live as long as the process.
keep = []


def udp(address, port=0, reuseaddr=False, reuseport=False, v6only=False):
    """A bound UDP socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if v6only:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for option, wanted in (socket.SO_REUSEADDR, reuseaddr), (socket.SO_REUSEPORT, reuseport):
        if wanted:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
    sock.bind((address, port))
    return sock


def connected(address, port):
    """A UDP socket that is connected without having been bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((address, port))
    return sock


def sent(address, port):
    """A UDP socket that has sent a datagram and was never bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.sendto(b"", (address, port))
    return sock


class Tenant:
    """A connection to afnetd, attached to the compartment that this process lives in."""

    def __init__(self, path=sys.argv[1]):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        self.fds = []
        self.ask({"op": "hello", "version": 1})
        self.ask({"op": "attach", "kind": "udp"})

    def ask(self, request, sockets=()):
        """The answer, or the name of the error."""
        line = json.dumps(request).encode() + b"\n"
        socket.send_fds(self.stream, [line], [s.fileno() for s in sockets])
        answer = b""
        while not answer.endswith(b"\n"):
            part, fds, _, _ = socket.recv_fds(self.stream, 65536, 64)
            if not part:
                raise EOFError("afnetd has closed")
            answer += part
            self.fds += fds
        answer = json.loads(answer)
        return answer["ok"] if "ok" in answer else answer["error"]["code"]

    def claim(self, *sockets, port=0, **more):
        """The port, or the name of the error."""
        answer = self.ask({"op": "claim", "port": port, **more}, sockets)
        return answer if isinstance(answer, str) else answer["claimed"]["port"]

    def unclaim(self, port, **more):
        return self.ask({"op": "unclaim", "port": port, **more})

    def tried(self, *sockets, **more):
        """As claim(), and gives it back: `ok`, or the name of the error."""
        port = self.claim(*sockets, **more)
        if isinstance(port, str):
            return port
        more.pop("shared", None)
        more.pop("port", None)
        self.unclaim(port, **more)
        return "ok"


def serve():
    names = globals()
    while True:
        text, fds, _, _ = socket.recv_fds(wire, 65536, 64)
        if not text:
            return
        names["given"] = [socket.socket(fileno=fd) for fd in fds]
        try:
            try:
                value = eval(text.decode(), names)
            except SyntaxError:
                value = exec(text.decode(), names)
            reply = {"ok": list(value.getsockname()) if isinstance(value, socket.socket) else value}
            fds = [value.fileno()] if isinstance(value, socket.socket) else []
        except OSError as error:
            reply, fds = {"ok": errno.errorcode.get(error.errno, str(error))}, []
        except Exception as error:
            reply, fds = {"error": repr(error)}, []
        socket.send_fds(wire, [json.dumps(reply, default=repr).encode() + b"\n"], fds)


serve()
