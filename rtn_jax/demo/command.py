"""`python -m rtn_jax demo`: the page on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

INSTALL = "the page needs gradio, which is not installed: pip install 'rtn_jax[demo]' (or: pip install 'gradio>=6')"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Opens a web page on this machine: click a point in one photo and see it in another."""

    ckpt: tuple[Path, ...] = (Path("vgg"),)
    """Checkpoints or run folders (or a net-epoch.mat of the release, or the name of a network that comes with the
    package) to choose from, the first one at the start."""
    port: int = 7860
    """Of http://127.0.0.1; 0 takes a free one."""

    def __post_init__(self) -> None:
        if not self.ckpt:
            raise ValueError("ckpt: expected at least one checkpoint")
        if len(set(self.ckpt)) != len(self.ckpt):
            raise ValueError(f"ckpt: expected different ones, got {', '.join(map(str, self.ckpt))}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: expected 0 to 65535, got {self.port}")


def demo(config: DemoConfig) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        ValueError: without gradio, for a checkpoint that cannot be used, or a port that is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(INSTALL)
    from rtn_jax import checkpoints
    from rtn_jax.demo.matcher import Choice, Matcher
    from rtn_jax.demo.photos import example_photos
    from rtn_jax.demo.server import HOST, bound_socket, serve

    with bound_socket(config.port) as listener, contextlib.suppress(KeyboardInterrupt):
        matcher = Matcher({str(path): checkpoints.load(path) for path in config.ckpt})
        examples = example_photos()
        sys.stderr.write("compiling the network: half a minute the first time, seconds later\n")
        matcher.match(*next(iter(examples.values())), Choice(str(config.ckpt[0])))
        address = f"http://{HOST}:{listener.getsockname()[1]}"

        def started() -> None:
            sys.stdout.write(f"{address} (Ctrl-C ends it)\n")
            sys.stdout.flush()

        serve(matcher, examples, listener, started)
