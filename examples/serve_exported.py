"""Serves an exported network over HTTP: jax, NumPy and the standard library, without rtn_jax.

    python examples/export_network.py --ckpt=runs/vgg --size=256 --out=rtn.stablehlo
    python examples/serve_exported.py rtn.stablehlo --port=8000

POST an .npy file of source and target, uint8 [2, H, W, 3]; the answer is an .npy file, float32 [H, W, 3]: for every
pixel of the source its x and y in the target, and the confidence.
"""

import argparse
import io
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jax.export
import numpy as np

ARGUMENTS = argparse.ArgumentParser(description="Serves an exported network on 127.0.0.1.")
ARGUMENTS.add_argument("file", nargs="?", type=Path, default=Path("rtn.stablehlo"), help="what rtn_jax.export wrote")
ARGUMENTS.add_argument("--port", type=int, default=8000, help="0: any free one")
ARGUMENTS.add_argument("--ask", type=int, default=0, help="send that many requests to itself, then end")


class Handler(BaseHTTPRequestHandler):
    """Answers requests, one after another."""

    network: jax.export.Exported

    def do_POST(self) -> None:
        shape, body, code = (2, *self.network.in_avals[0].shape[1:]), io.BytesIO(), 200
        try:
            content = self.rfile.read(min(int(self.headers["Content-Length"] or 0), int(np.prod(shape)) + 1000))
            images = np.load(io.BytesIO(content), allow_pickle=False)
            if images.shape != shape or images.dtype != np.uint8:
                raise ValueError(f"expected uint8 of shape {shape}, got {images.dtype} of shape {images.shape}")
            out = self.network.call(images[:1], images[1:])
            np.save(body, np.concatenate([out["mapping"][0], out["confidence"][0, ..., None]], axis=-1))
        except (ValueError, EOFError) as error:
            body, code = io.BytesIO(str(error).encode()), 400
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body.getvalue())


if __name__ == "__main__":
    given = ARGUMENTS.parse_args()
    given.file.is_file() or ARGUMENTS.error(f"no such file: {given.file}")
    Handler.network = jax.export.deserialize(bytearray(given.file.read_bytes()))
    server, size = HTTPServer(("127.0.0.1", given.port), Handler), Handler.network.in_avals[0].shape[1:]
    print(f"{given.file}: images {[*size]} on {(address := f'http://127.0.0.1:{server.server_port}')}", flush=True)
    (threading.Thread(target=server.serve_forever, daemon=True).start if given.ask else server.serve_forever)()
    for _ in range(given.ask):
        sent, begun = io.BytesIO(), time.perf_counter()
        np.save(sent, np.full((2, *size), 128, np.uint8))
        answer = np.load(io.BytesIO(urllib.request.urlopen(address, sent.getvalue()).read()))
        print(f"{answer.shape} after {time.perf_counter() - begun:.3f} s, mean confidence {answer[..., 2].mean():.3f}")
