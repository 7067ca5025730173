"""Sees who is at work, from outside of every machine that works.

umpire.py serve PORT                    each connection is one that is at work, for as long as it stands
umpire.py inside ADDRESS PORT COMMAND...   runs COMMAND while a connection stands; at its end prints nothing, exits as COMMAND

`serve` prints `overlap` for each connection that comes while another stands, and `entered` for each, when it is asked to
end with SIGTERM: the two counts."""

import select
import signal
import socket
import subprocess
import sys


def serve(port):
    entered = overlaps = 0
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit))
    server = socket.create_server(("", port))
    inside = set()
    try:
        while True:
            ready, _, _ = select.select([server, *inside], [], [])
            # Those that leave first: one that comes after another has left found nobody inside.
            for connection in inside.intersection(ready):
                if not connection.recv(1):
                    inside.remove(connection)
                    connection.close()
                    continue
            if server in ready:
                connection, _ = server.accept()
                entered += 1
                overlaps += bool(inside)
                connection.sendall(b"!")
                inside.add(connection)
    finally:
        print(f"{entered} entered, {overlaps} overlaps", flush=True)


def inside(address, port, command):
    with socket.create_connection((address, port), timeout=60) as connection:
        connection.recv(1)
        status = subprocess.run(command).returncode
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # until the other end has noticed
    return status


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        sys.exit(inside(sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
