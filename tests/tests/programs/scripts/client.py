"""Clients that no package has: client.py udp|memcached|ntp|syslog HOST PORT ..."""

import os
import socket
import sys
import time

what, host, port, *rest = sys.argv[1:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.settimeout(5)


def ask(data):
    client.sendto(data, (host, int(port)))
    return client.recvfrom(65536)


if what == "udp":
    data, sender = ask(rest[0].encode())
    print(data.decode(), "from", sender[0])
elif what == "memcached":
    orders = {"set": b"set key 0 0 5\r\nvalue\r\n", "get": b"get key\r\n"}
    data, _ = ask(b"\0\1\0\0\0\1\0\0" + orders[rest[0]])
    print(repr(data[8:]))
elif what == "ntp":
    data, _ = ask(b"\x23" + bytes(47))
    print("stratum", data[1])
elif what == "syslog":
    client.sendto(b"<13>Jan  1 00:00:00 peer test: told", (host, int(port)))
    for _ in range(50):
        if os.path.exists(rest[0]):
            print(open(rest[0]).read())
            break
        time.sleep(0.02)
