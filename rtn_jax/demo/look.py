"""How the page looks, and the few lines of script that it has of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rtn_jax.coordinates import shrunk_shape
from rtn_jax.demo.drawing import jpeg_address
from rtn_jax.demo.photos import Photo
from rtn_jax.images import resize, to_uint8
from rtn_jax.visualize.board import FRAME

SAVE = """(address) => {
  if (address) { const a = document.createElement('a'); a.href = address; a.download = 'matches.png'; a.click(); }
  return '';
}"""
"""Saves the picture under a name, and forgets it."""

NOW = "(session, share, now, ...others) => [session, share, performance.now(), ...others]"
"""When a photo is asked for: requests may overtake each other on their way to the server."""

DROP = """() => document.addEventListener('drop', event => {
  const box = event.target.closest && event.target.closest('#source, #target'), files = event.dataTransfer.files;
  if (!box || !box.querySelector('img') || !files.length) return;
  event.preventDefault();
  event.stopPropagation();
  const kept = new DataTransfer();
  kept.items.add(files[0]);
  event.target.dispatchEvent(new DragEvent('dragleave', {bubbles: true}));
  box.querySelector('button[title="Remove Image"]').click();
  const give = tries => {
    const input = box.querySelector('input[type=file]');
    if (input) { input.files = kept.files; input.dispatchEvent(new Event('change', {bubbles: true})); }
    else if (tries) setTimeout(give, 20, tries - 1);
  };
  setTimeout(give, 0, 250);
}, true)"""
"""A photo dropped onto another one takes its place. Gradio looks for the file when the browser no longer has it."""

DARK_AND_LIGHT = {
    "body_background_fill": "#fdfdfb",
    "body_background_fill_dark": "#14171a",
    "block_label_text_size": "*text_sm",
    "button_large_radius": "*radius_md",
}

CSS = """
.gradio-container, .gradio-container > .main { width: 100% !important; max-width: 1240px !important;
  margin: 0 auto !important; }
footer { display: none !important; }
#opening h1 { font-size: clamp(1.4rem, 4vw, 2rem); line-height: 1.2; font-weight: 650; letter-spacing: -.015em;
  margin: .5rem 0 .25rem; }
#opening p { max-width: 46rem; opacity: .8; margin: 0; }
:is(#opening, #note, .title, #table), :is(#opening, #note, .title, #table) > div { padding: 0 !important; }
.titled { gap: .4rem !important; }
.title h2 { font-size: 1rem; font-weight: 600; margin: 0 !important; }
.title span { font-weight: 400; opacity: .7; }
#source, #target { height: 440px; }
#source img { cursor: crosshair; }
#target img, #warp img { cursor: default; }
:is(#source, #target, #warp) img { width: 100%; height: 100%; }
#source img, #target img { object-fit: scale-down; }  /* as gradio takes it to be when it places a click */
#warp img { object-fit: contain; }
#warp { height: 340px; }
#examples { gap: .75rem; }
.example { height: auto !important; flex: 0 1 15rem !important; padding-top: 6.4rem !important;
  min-width: 0 !important; background-repeat: no-repeat !important; background-position: center .5rem !important;
  background-size: auto 5.6rem !important; font-weight: 500 !important; }
#note p { margin: 0; font-size: .95rem; min-height: 1.5em; }
#note .hint { opacity: .75; }
#note .problem { color: #b3261e; font-weight: 600; }
.dark #note .problem { color: #ff9e94; }
#table table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
#table th { text-align: left; font-weight: 500; opacity: .7; padding: .2rem .4rem; white-space: nowrap; }
#table td { padding: .2rem .4rem; border-top: 1px solid color-mix(in srgb, currentColor 15%, transparent);
  white-space: nowrap; }
#table .dot { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .4em;
  border: 1px solid #fff; box-shadow: 0 0 0 1px #222; vertical-align: -.05em; }
@media (max-width: 640px) {
  #examples { flex-wrap: nowrap !important; gap: .5rem; }
  .example { flex: 1 1 0 !important; background-size: auto 2.4rem !important; padding: 3.2rem .1rem .3rem !important;
    align-self: stretch; font-size: .75rem !important; line-height: 1.2 !important; }
  #table table { font-size: .8rem; }
  #source, #target, #warp { height: 280px; }
}
"""

_THUMBNAIL = 110
_GAP = 4


def example_css(examples: Mapping[str, tuple[Photo, Photo]]) -> str:
    """Both photos of every example on its button."""
    rules = []
    for i, pair in enumerate(examples.values()):
        small = [to_uint8(resize(photo.image, shrunk_shape(photo.shape, _THUMBNAIL))) for photo in pair]
        height = max(image.shape[0] for image in small)
        canvas = np.full((height, sum(image.shape[1] for image in small) + _GAP, 3), FRAME, np.uint8)
        canvas[: small[0].shape[0], : small[0].shape[1]] = small[0]
        canvas[: small[1].shape[0], -small[1].shape[1] :] = small[1]
        rules.append(f"#example-{i} {{ background-image: url('{jpeg_address(canvas)}') !important; }}")
    return "\n".join(rules)
