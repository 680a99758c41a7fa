"""A server to talk to where MLflow's own would be too kind, or too slow to start."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A server that is MLflow's in that it answers: with nothing, or, when told to, that it refuses."""

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                with outer.silent:
                    pass
                if self.path.endswith("runs/log-batch"):
                    outer.refusing |= outer.batches == 0
                    if not outer.refusing:
                        outer.batches -= 1
                        outer.received += [metric["step"] for metric in json.loads(body)["metrics"]]
                refusal = {"error_code": "PERMISSION_DENIED", "message": "not you\nat all"}
                answer = json.dumps(refusal if outer.refusing else {}).encode()
                self.send_response(403 if outer.refusing else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self.refusing, self.received = False, []
        self.batches = -1  # how many it takes before it refuses; all, where negative
        self.silent = threading.Lock()  # while it is held, the server says nothing
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def die(self) -> None:
        self._http.shutdown()
        self._http.server_close()
