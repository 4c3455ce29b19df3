"""A Millhand child in plain Python: tasks are functions, `serve()` runs them for a worker.

    from child import serve, task

    @task("double")
    def double(args, cx):
        return args * 2

    serve()

What a child must do is written in docs/child-protocol.md. Python 3.9 or newer, standard library only."""

import array
import collections
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback

from codec import decode, encode

VERSION = 1
# Bytes of one frame after its length.
FRAME_BYTES = 18 << 20
# Jobs that are held at once.
WINDOW = 16
# A bigger result goes by descriptor, where there are files in memory.
SHARED_OVER = 256 << 10
RESULT_BYTES = 1 << 20
ERROR_BYTES = 16 << 10
# Characters of a line for the log.
LINE = 4096
DESCRIPTORS = 16
HAS_MEMFD = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")
# Seconds between two reports of progress.
PROGRESS_EVERY = 0.1

MESSAGEPACK, JSON = 0, 1

_tasks = {}


def task(name):
    """Makes a function a task: it gets the job's arguments and a `Context`, and answers the result."""

    def register(handler):
        _tasks[name] = handler
        return handler

    return register


class Cancelled(Exception):
    """The job was asked to end, and does."""


class Retry(Exception):
    """The attempt failed; the next may start after so many seconds."""

    def __init__(self, text, seconds=None):
        super().__init__(text)
        self.seconds = seconds


class Fatal(Exception):
    """The job cannot succeed, now or later."""


class Snooze(Exception):
    """The job is to run again after so many seconds; this attempt does not count."""

    def __init__(self, seconds):
        super().__init__(f"again in {seconds} s")
        self.seconds = seconds


class Context:
    """What a handler knows of its job and may say."""

    def __init__(self, child, job):
        self._child = child
        self._id = job["i"]
        self._asked = threading.Event()
        self._told = 0.0
        self.id = self._id.hex()
        self.attempt = job["n"]
        self.task = job["t"]
        fence = job["f"]
        self.fence = (fence["h"], fence["c"], fence["k"])
        self.deadline = None if job.get("d") is None else time.monotonic() + job["d"] / 1000

    def is_cancelled(self):
        """Whether the job was asked to end: it was cancelled, or reached its soft limit."""
        return self._asked.is_set()

    def check(self):
        """Ends the job here if it was asked to."""
        if self.is_cancelled():
            raise Cancelled("it was asked to end")

    def wait(self, seconds):
        """Sleeps, but not beyond the moment when the job is asked to end."""
        if self._asked.wait(seconds):
            raise Cancelled("it was asked to end")

    def log(self, text):
        """Writes into the job's log."""
        for line in _sendable(str(text)).splitlines():
            self._child.send({"log": {"i": self._id, "m": line[:LINE]}})

    def progress(self, done, total=None):
        """Says how far the job is; cheap enough for every step of a loop."""
        now = time.monotonic()
        if done != total and now - self._told < PROGRESS_EVERY:
            return
        self._told = now
        said = {"i": self._id, "d": done}
        if total is not None:
            said["t"] = total
        self._child.send({"progress": said})


class _Broken(Exception):
    """The worker said what no worker says."""


def _end(code):
    """Ends this process and what its handlers started, whatever they are in the middle of."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(code)


def serve():
    """Serves jobs until the worker is gone, and ends the process then."""
    try:
        child = _Child()
    except OSError as error:
        sys.exit(f"this is a child for a Millhand worker; standard input is no socket of one: {error}")
    # What a job prints is to be in its log at once.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    child.serve()


class _Child:
    def __init__(self):
        # A duplicate that nothing inherits; whatever a handler starts reads an empty file instead.
        self.socket = socket.socket(fileno=os.dup(0))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        if self.socket.family != socket.AF_UNIX or self.socket.type != socket.SOCK_STREAM:
            raise OSError("it is a socket of another kind")
        self.sending = threading.Lock()
        self.changed = threading.Condition()
        self.waiting = collections.deque()
        self.running = None
        self.buffer = bytearray()
        self.descriptors = collections.deque()

    # Frames.

    def send(self, frame, descriptor=None):
        body = encode(frame)
        self.send_raw(struct.pack(">I", len(body)) + body, descriptor)

    def send_raw(self, data, descriptor=None):
        """Sends bytes as they are; the descriptor goes with the first of them."""
        try:
            with self.sending:
                sent = 0
                if descriptor is not None:
                    rights = array.array("i", [descriptor])
                    sent = self.socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                self.socket.sendall(data[sent:])
        except OSError:
            _end(1)

    def receive(self):
        """Reads what there is; whether the stream goes on."""
        space = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        data, messages, _, _ = self.socket.recvmsg(1 << 16, space, flags)
        for level, kind, content in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                rights = array.array("i")
                rights.frombytes(content[: len(content) - len(content) % rights.itemsize])
                self.descriptors.extend(rights)
        self.buffer += data
        return bool(data)

    def frames(self):
        """The frames that are here whole."""
        while len(self.buffer) >= 4:
            length = int.from_bytes(self.buffer[:4], "big")
            if length > FRAME_BYTES:
                raise _Broken(f"a frame of {length} bytes")
            if len(self.buffer) < 4 + length:
                return
            body = bytes(self.buffer[4 : 4 + length])
            del self.buffer[: 4 + length]
            frame = decode(body)
            if not isinstance(frame, dict) or len(frame) != 1:
                raise _Broken("a frame that is no map with one key")
            yield next(iter(frame.items()))

    # What the worker says. It is heard on a thread of its own, whatever the handler does.

    def hear(self):
        try:
            while self.receive():
                for kind, value in self.frames():
                    self.take(kind, value)
            _end(1 if self.buffer else 0)
        except BaseException as error:  # Without this thread nobody would notice that the worker is gone.
            print(f"the worker broke the protocol: {error!r}", file=sys.stderr, flush=True)
            _end(1)

    def take(self, kind, value):
        if kind == "run":
            jobs = [(job, Context(self, job), self.payload(job["a"])) for job in value]
            with self.changed:
                self.waiting.extend(jobs)
                self.changed.notify()
        elif kind == "cancel":
            self.cancel(value["i"])
        else:
            raise _Broken(f"a frame of kind {kind!r}")

    def cancel(self, wanted):
        with self.changed:
            if self.running is not None and self.running._id == wanted:
                self.running._asked.set()
                return
            found = [entry for entry in self.waiting if entry[0]["i"] == wanted]
            for entry in found:
                self.waiting.remove(entry)
        # Of a job that has just ended the answer is on its way.
        if found:
            self.send({"done": [{"i": wanted, "o": {"back": None}}]})

    def payload(self, carried):
        """Codec and bytes of arguments."""
        if "f" not in carried:
            return carried["c"], carried["b"]
        if not self.descriptors:
            raise _Broken("a payload without its descriptor")
        with open(self.descriptors.popleft(), "rb") as file:
            # Both sides of a passed descriptor share one position.
            file.seek(0)
            data = file.read(carried["f"])
        if len(data) != carried["f"]:
            raise _Broken("a payload that is shorter than it says")
        return carried["c"], data

    # Jobs, one after the other, on the main thread.

    def serve(self):
        hello = {"v": VERSION, "p": os.getpid(), "t": sorted(_tasks), "w": WINDOW, "fd": HAS_MEMFD}
        self.send({"hello": hello})
        threading.Thread(target=self.hear, name="worker", daemon=True).start()
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                job, cx, (codec, data) = self.waiting.popleft()
                self.running = cx
            answer = self.run(job, cx, codec, data)
            with self.changed:
                self.running = None
            self.answer(answer)

    def run(self, job, cx, codec, data):
        """The answer to a job, but for the result's encoding."""
        wall, cpu = time.monotonic_ns(), time.thread_time_ns()
        end, result = None, None
        try:
            handler = _tasks.get(job["t"])
            if handler is None:
                end = {"failed": {"x": f"the child does not know task {job['t']}"}}
            else:
                result = handler(_value(codec, data), cx)
        except _BadArguments as error:
            end = {"fatal": {"w": "bad_arguments", "x": str(error)}}
        except Snooze as snooze:
            end = {"snooze": {"d": int(snooze.seconds * 1000)}}
        except Fatal as error:
            end = {"fatal": {"w": "failed", "x": _text(str(error))}}
        except Retry as error:
            failed = {"x": _text(str(error))}
            if error.seconds is not None:
                failed["r"] = int(error.seconds * 1000)
            end = {"failed": failed}
        except BaseException as error:  # A handler that calls sys.exit must not end the child.
            text = str(error) if isinstance(error, Cancelled) else traceback.format_exc()
            end = {"failed": {"x": _text(text)}}
        ran = time.monotonic_ns()
        answer = {"i": job["i"], "o": end, "w": (ran - wall) // 1000}
        descriptor = None
        if end is None:
            answer["o"], descriptor = _carried(codec, result)
        answer["n"] = (time.monotonic_ns() - ran) // 1000
        answer["u"] = (time.thread_time_ns() - cpu) // 1000
        return answer, descriptor

    def answer(self, answered):
        answer, descriptor = answered
        # What the job printed comes before its answer.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        self.send({"done": [answer]}, descriptor)
        if descriptor is not None:
            os.close(descriptor)


class _BadArguments(Exception):
    pass


def _value(codec, data):
    try:
        return json.loads(data) if codec == JSON else decode(data)
    except (ValueError, RecursionError) as error:
        raise _BadArguments(f"the arguments cannot be read: {error}") from None


def _carried(codec, result):
    """The end of a job that succeeded, and the file that its result is in, if it is in one."""
    try:
        data = json.dumps(result).encode() if codec == JSON else encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        return {"fatal": {"w": "failed", "x": f"the result cannot be written: {error}"}}, None
    if len(data) > RESULT_BYTES:
        text = f"the result has {len(data)} bytes, more than {RESULT_BYTES}"
        return {"fatal": {"w": "result_too_big", "x": text}}, None
    if len(data) <= SHARED_OVER or not HAS_MEMFD:
        return {"ok": {"c": codec, "b": data}}, None
    file = os.memfd_create("millhand", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(file, "wb", closefd=False) as out:
        out.write(data)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return {"ok": {"c": codec, "f": len(data)}}, file


def _sendable(text):
    """The text without what UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _text(text):
    """The end of an error's text: of a traceback it says most."""
    return text.encode("utf-8", "replace")[-ERROR_BYTES:].decode("utf-8", "replace")
