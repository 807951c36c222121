"""An ``instancersr`` command that starts at once: a process that has imported torch forks for each call.

    python fork_server.py SOCKET        prints "ready", then serves until it is terminated

The command is real: own process, own arguments, folder, environment, stdin and stdout. Only the seconds of imports are
saved. `CLIENT` is the script that stands for the console script.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback

CLIENT = """#!{python} -SE
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(connection, [len(call).to_bytes(4, "big")], [0, 1, 2])
connection.sendall(call)
sys.exit(int(connection.makefile().read()))
"""


def serve(address: str) -> None:
    """Forks for each call that comes over a Unix socket."""
    import diffusers  # noqa: F401
    import torch  # noqa: F401

    import instancersr.cli
    import instancersr.lab.pipeline  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Runs the command of one call and sends its exit code."""
    header, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    call = connection.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
    arguments, folder, environment = json.loads(call)
    for target, source in enumerate(descriptors):
        os.dup2(source, target)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = _run(arguments)
    sys.stdout.flush()
    connection.sendall(str(code).encode())
    os._exit(0)


def _run(arguments: list[str]) -> int:
    from instancersr.cli import main

    sys.argv = ["instancersr", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # the interpreter would print it and end with 1
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
