"""Two tasks for a Millhand worker: one counts primes, one breaks in the way it is told to."""

import ctypes
import os
import struct
import subprocess
import sys
import threading
import time

from child import Fatal, serve, task


@task("primes")
def primes(args, cx):
    """How many primes are below `args["below"]`; slowly, as a stand-in for work that needs a processor."""
    below = args["below"]
    found = 0
    for number in range(2, below):
        if number % 1000 == 0:
            cx.check()
            cx.progress(number, below)
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            found += 1
    cx.log(f"{found} primes below {below}")
    return found


def spin(args, cx):
    while True:
        pass


def silence(args, cx):
    """Never answers."""
    threading.Event().wait()


def ignore_soft(args, cx):
    """Sleeps on when it is asked to end."""
    time.sleep(args.get("seconds", 3600))
    return "slept"


def segv(args, cx):
    ctypes.string_at(0)


def garbage(args, cx):
    cx._child.send_raw(struct.pack(">I", 32) + b"\xc1" * 32)
    silence(args, cx)


def huge_length(args, cx):
    cx._child.send_raw(b"\xff\xff\xff\xff" + b"x" * 100)
    silence(args, cx)


def half_frame(args, cx):
    cx._child.send_raw(struct.pack(">I", 100) + b"\x81\xa4done")
    os._exit(0)


def wrong_job(args, cx):
    other = bytes(byte ^ 0xFF for byte in cx._id)
    cx._child.send({"done": [{"i": other, "o": {"ok": {"c": 1, "b": b"null"}}}]})
    silence(args, cx)


def close_stdin(args, cx):
    cx._child.socket.shutdown(1)
    silence(args, cx)


def alloc(args, cx):
    """Takes memory until it is stopped, or `most` MiB of it."""
    held = []
    for _ in range(args.get("most", 1 << 30)):
        held.append(bytearray(b"x") * (1 << 20))
    return len(held)


def print_flood(args, cx):
    """Prints 1 GiB, or `mib` of it."""
    line = "x" * 1023 + "\n"
    for _ in range(args.get("mib", 1024) * 1024):
        sys.stdout.write(line)
    return "printed"


def fork_bomb(args, cx):
    """Doubles its processes `depth` times. With more than a few, only in a cgroup that bounds them."""
    for _ in range(args.get("depth", 6)):
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)
    silence(args, cx)


def orphan(args, cx):
    """Leaves a process behind, in a session of its own if `session` is true; answers its number."""
    own = args.get("session", False)
    left = subprocess.Popen(["sleep", "600"], start_new_session=own)
    return {"pid": left.pid}


WAYS = {
    "ok": lambda args, cx: "ok",
    "abort": lambda args, cx: os.abort(),
    "exit0": lambda args, cx: os._exit(0),
    "raise": lambda args, cx: 1 // 0,
    "fatal": lambda args, cx: (_ for _ in ()).throw(Fatal("as told")),
}
for way in (
    spin,
    silence,
    ignore_soft,
    segv,
    garbage,
    huge_length,
    half_frame,
    wrong_job,
    close_stdin,
    alloc,
    print_flood,
    fork_bomb,
    orphan,
):
    WAYS[way.__name__] = way


@task("misbehave")
def misbehave(args, cx):
    """Does what `args["how"]` says, for tests of what a worker makes of it."""
    way = WAYS.get(args["how"])
    if way is None:
        raise Fatal(f"{args['how']} is none of {', '.join(sorted(WAYS))}")
    return way(args, cx)


if __name__ == "__main__":
    serve()
