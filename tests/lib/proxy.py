#!/usr/bin/env python3
"""A TCP proxy on a free loopback port that delays what clients send, and counts it.

    with proxy.start(target_port, delay_s=0.05) as p:
        p.port, p.counts()
        p.hold("GET /packs/")   # the next request that begins so does not reach the server...
        p.held()                # ...(whether there was one)
        p.release()             # ...until here
        p.cut()                 # every connection is broken off, new ones too...
        p.mute()                # ...or: nothing passes any more, neither way, and nobody is told...
        p.join()                # ...until here

Each piece a client sends is passed on `delay_s` later, in order, so every request takes that much longer while the
rate stays what it was; connections opened cost nothing more.  It runs in a process of its own.

From the shell:
    proxy.py TARGET_PORT [DELAY_MS]
prints its port and serves until its standard input ends.  Lines there: "hold BEGINNING", "release", "cut", "mute", "join"; each, and an empty one, is
answered by "REQUESTS BYTES_SENT BYTES_RECEIVED HELD".
"""
import asyncio
import contextlib
import re
import subprocess
import sys

PIECE_BYTES = 1 << 18
# More than so much on its way to the server is not read from the client.
PIECES_MAX = 64
REQUEST = re.compile(rb"(?:^|\n)[A-Z]+ [^ \r\n]+ HTTP/1\.1\r\n")


class Counts:
    requests = sent = received = 0


class Link:
    """The way to the server: "up", "cut" or "mute"."""
    state = "up"
    clients = set()  # writers to clients
    up = asyncio.Event()

    @classmethod
    def command(cls, word):
        if word == "join":
            # Whoever was left without an answer has lost what was on its way.
            if cls.state == "mute":
                cls.break_off()
            cls.state = "up"
            cls.up.set()
        elif word in ("cut", "mute"):
            cls.state = word
            cls.up.clear()
            if word == "cut":
                cls.break_off()

    @classmethod
    def break_off(cls):
        for writer in list(cls.clients):
            writer.transport.abort()


class Hold:
    beginning = None  # of the next request to be held
    held = 0
    released = asyncio.Event()

    @classmethod
    async def wait(cls, data, here):
        """Only its own connection waits; HERE is set meanwhile."""
        if cls.beginning and data.startswith(cls.beginning):
            cls.beginning = None
            cls.held += 1
            here.set()
            await cls.released.wait()
            here.clear()

    @classmethod
    def command(cls, line):
        word, _, beginning = line.strip().partition(" ")
        if word == "hold":
            cls.released.clear()
            cls.held = 0
            cls.beginning = beginning.encode()
        elif word == "release":
            cls.beginning = None
            cls.released.set()


async def pump(reader, writer):
    while data := await reader.read(PIECE_BYTES):
        if Link.state != "up":
            await Link.up.wait()
        Counts.received += len(data)
        writer.write(data)
        await writer.drain()


async def delay_line(reader, queue, delay_s, held_here):
    """Reads from the client; each piece goes into the queue with the time when it is due."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(PIECE_BYTES):
        if Link.state != "up":
            await Link.up.wait()
        Counts.sent += len(data)
        # A request's head comes in one piece, and bodies here are ciphertext.
        Counts.requests += len(REQUEST.findall(data[:4096]))
        await Hold.wait(data, held_here)
        await queue.put((loop.time() + delay_s, data))
    await queue.put((loop.time() + delay_s, b""))


async def deliver(queue, writer):
    loop = asyncio.get_running_loop()
    while True:
        due, data = await queue.get()
        wait = due - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        if not data:
            writer.write_eof()
            return
        writer.write(data)
        await writer.drain()


async def client(reader, writer, target, delay_s):
    if Link.state == "cut":
        writer.transport.abort()
        return
    Link.clients.add(writer)
    try:
        await connected(reader, writer, target, delay_s)
    finally:
        Link.clients.discard(writer)


async def connected(reader, writer, target, delay_s):
    with contextlib.suppress(OSError):
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target, limit=PIECE_BYTES)
        queue, held_here = asyncio.Queue(PIECES_MAX), asyncio.Event()
        tasks = [asyncio.ensure_future(t) for t in (delay_line(reader, queue, delay_s, held_here),
                                                    deliver(queue, up_writer), pump(up_reader, writer))]
        try:
            await tasks[2]  # the server closes last
            if held_here.is_set():
                await Hold.released.wait()  # it heard nothing for long; the client must not learn that
        except (OSError, asyncio.CancelledError):
            pass  # the client is gone, or we end
        finally:
            for t in tasks:
                t.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            up_writer.close()
    writer.close()


async def serve(target, delay_s):
    server = await asyncio.start_server(lambda r, w: client(r, w, target, delay_s), "127.0.0.1", 0,
                                        limit=PIECE_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    Link.up.set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        Hold.command(line)
        Link.command(line.strip())
        print(Counts.requests, Counts.sent, Counts.received, Hold.held, flush=True)


class Proxy:
    def __init__(self, target_port, delay_s):
        self.process = subprocess.Popen([sys.executable, __file__, str(target_port), str(delay_s * 1000)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def ask(self, line=""):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return tuple(int(x) for x in self.process.stdout.readline().split())

    def counts(self):
        """(requests, bytes sent to the server, bytes received) so far."""
        return self.ask()[:3]

    def hold(self, beginning):
        self.ask("hold " + beginning)

    def held(self):
        return self.ask()[3] > 0

    def release(self):
        self.ask("release")

    def cut(self):
        self.ask("cut")

    def mute(self):
        self.ask("mute")

    def join(self):
        self.ask("join")

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def start(target_port, delay_s=0.0):
    """A running proxy; use it in a `with`."""
    return Proxy(target_port, delay_s)


def main():
    target = int(sys.argv[1])
    delay_s = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(target, delay_s))


if __name__ == "__main__":
    main()
