"""Serve the built book on this machine alone: ``make serve``."""

import argparse
import functools
import http.server
import sys
from pathlib import Path

SITE = Path(__file__).parents[3] / "_build" / "html"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files as they are; for a wrong address the site's own page says so."""

    def send_error(self, code, message=None, explain=None):
        """Answer a wrong address with ``404.html``."""
        page = Path(self.directory) / "404.html"
        if code != 404 or not page.is_file():
            return super().send_error(code, message, explain)
        text = page.read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *arguments):
        """Say nothing."""


def main():
    """Serve until interrupted, and print the address."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--site", type=Path, default=SITE)
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one")
    chosen = parser.parse_args()
    if not (chosen.site / "index.html").is_file():
        sys.exit(f"the book must be built first (make book): {chosen.site} has no index.html")
    handler = functools.partial(Handler, directory=str(chosen.site))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", chosen.port), handler)
    except OSError as problem:
        sys.exit(f"port {chosen.port} is taken ({problem.strerror}): choose another with --port")
    print(f"the book: http://127.0.0.1:{server.server_port}/  (Ctrl+C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
