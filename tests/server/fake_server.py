"""A small OpenAI-compatible server in the standard library, and the ways in which servers misbehave.

python fake_server.py --port 8000 --max-num-seqs 4 --token-seconds 0.002
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--max-num-seqs", type=int, default=2)
parser.add_argument("--token-seconds", type=float, default=0.002)
parser.add_argument("--megabytes", type=int, default=0)
parser.add_argument("--misbehave", default="")
parser.add_argument("--after", type=int, default=5)
parser.add_argument("--accent", default="")
parser.add_argument("--log", default="")
given = parser.parse_args()

places = threading.Semaphore(given.max_num_seqs)
served = 0
held = bytearray(os.urandom(1 << 20)) * given.megabytes


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(503 if given.misbehave == "never_ready" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        global served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        served += 1
        if given.log:
            with open(given.log, "a") as file:
                file.write(f"{time.time()} {len(body['prompt'].split())} {body['max_tokens']}\n")
        if given.misbehave == "die" and served > given.after:
            print("the device is lost", file=sys.stderr, flush=True)
            os._exit(3)
        if given.misbehave == "error" and served > given.after:
            self.send_response(500)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"no luck")
            return
        if given.misbehave == "stall" and served > given.after:
            time.sleep(60)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if given.misbehave == "rubbish":
            self.wfile.write(b"<html>welcome</html>\n")
        elif given.misbehave == "bad_json":
            self.wfile.write(b"data: {nonsense\n\n")
        elif given.misbehave == "silent":
            self.event({"choices": [{"text": "", "finish_reason": "stop"}]})
        else:
            self.answer(body)

    def answer(self, body):
        with places:
            for number in range(body["max_tokens"]):
                time.sleep(given.token_seconds)
                if given.misbehave == "cut" and number == 2:
                    return
                word = f"{body['prompt'].split()[number % 4]}{given.accent} "
                self.event({"choices": [{"text": word, "finish_reason": None}]})
        usage = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": body["max_tokens"]}
        self.event({"choices": [{"text": "", "finish_reason": "length"}], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        pass


if given.misbehave == "refuse":
    print("fake_server.py: unrecognised option", file=sys.stderr)
    sys.exit(2)
server = Server(("127.0.0.1", given.port), Handler)
if given.misbehave == "ignore_sigterm":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if given.misbehave == "leak_port" and os.fork() == 0:
    # A child with a session of its own that keeps the listening socket.
    os.setsid()
    if os.fork():
        os._exit(0)
    os.set_inheritable(server.fileno(), True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
server.serve_forever()
