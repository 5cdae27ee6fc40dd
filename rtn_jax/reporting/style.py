"""How the report looks: on paper, on a phone and on a screen, light and dark."""

from __future__ import annotations

from rtn_jax.reporting.charts import DARK, LIGHT
from rtn_jax.visualize.drawing import Color


def stylesheet() -> str:
    """CSS of the whole page."""
    return _CSS.replace("/*light*/", _variables(LIGHT)).replace("/*dark*/", _variables(DARK))


def _variables(colors: tuple[Color, ...]) -> str:
    return " ".join(f"--m{i}: rgb({r}, {g}, {b});" for i, (r, g, b) in enumerate(colors))


_CSS = """
:root {
  color-scheme: light dark;
  --page: #fdfdfb; --ink: #1b1f23; --soft: #5d656d; --rule: #dcded9; --faint: #eeefeb; --tint: #f1f5f8;
  /*light*/
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --ink: #e6e8ea; --soft: #9ca5ad; --rule: #363c42; --faint: #24292e; --tint: #1b2228;
    /*dark*/
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 62rem; margin: 0 auto; padding: clamp(1.5rem, 5vw, 4rem) clamp(1rem, 4vw, 2.5rem) 4rem; }
p, ul, dl, figure { margin: 0; }
p, li, dd, figcaption, h1, h2, th, summary { overflow-wrap: anywhere; }
p { max-width: 42rem; text-wrap: pretty; }
h1 { margin: 0 0 .5rem; font-size: clamp(1.6rem, 4.5vw, 2.3rem); line-height: 1.15; font-weight: 650;
  letter-spacing: -.018em; text-wrap: balance; }
h1 span { color: var(--soft); font-weight: 400; }
h2 { margin: 3.5rem 0 .5rem; font-size: 1.2rem; line-height: 1.3; font-weight: 650; letter-spacing: -.008em; }
h3 { margin: 2rem 0 .25rem; font-size: 1rem; font-weight: 650; }
small, .note, figcaption, .label, .legend, dl, .lines { font-size: .85rem; line-height: 1.5; }
small, .note, figcaption, .label, .soft { color: var(--soft); }
.note { margin-top: .75rem; }
.lead { font-size: 1.1rem; margin-top: 1.25rem; }
.lead strong { white-space: nowrap; }

table { border-collapse: collapse; width: 100%; margin-top: 1.25rem; }
th { font-weight: 400; text-align: left; }
.number { text-align: right; }
.whole { white-space: nowrap; }
thead th { color: var(--soft); font-size: .85rem; line-height: 1.35; vertical-align: bottom;
  padding: 0 0 .45rem .75rem; }
thead th:first-child, tbody th { padding-left: 0; }
thead { border-bottom: 1px solid var(--ink); }
.figures tbody { border-bottom: 1px solid var(--rule); }
.figures tbody:last-child { border-bottom-color: var(--ink); }
.figures td, .figures tbody th { padding: .45rem 0 .45rem .75rem; vertical-align: baseline; }
.figures tbody th { padding-left: 0; padding-right: .5rem; }
.figures small { display: block; }
.figures td small { white-space: nowrap; }
.figures tr.subject { background: var(--tint); box-shadow: -.75rem 0 var(--tint), .75rem 0 var(--tint); }
.figures tr.subject th, .figures tr.subject td { font-weight: 650; }
.figures small { font-weight: 400; }
.figures tr.group th { padding-bottom: 0; color: var(--soft); font-size: .85rem; }
.figures .published td, .figures .published th { padding-top: .2rem; padding-bottom: .2rem; }
.bars { position: relative; }
.figures thead .swatch { display: block; margin: 0 0 .3rem auto; }
.scroll { overflow-x: auto; margin: 0 -.75rem; padding: 0 .75rem; }

.swatch { margin-right: .5rem; vertical-align: 1px; overflow: visible; }
.m0 { --own: var(--m0); --dash: none; --width: 3px; }
.m1 { --own: var(--m1); --dash: 6 4; --width: 2px; }
.m2 { --own: var(--m2); --dash: 2 3; --width: 2px; }
rect, circle { fill: var(--own); }
circle { stroke: var(--page); stroke-width: 1.5; }
.curve { fill: none; stroke: var(--own); stroke-width: var(--width); stroke-dasharray: var(--dash);
  stroke-linejoin: round; }
svg text { fill: var(--soft); font-size: 12px; }
g.m0 text { fill: var(--ink); font-weight: 650; paint-order: stroke; stroke: var(--page); stroke-width: 5px;
  stroke-linejoin: round; }
.rule { stroke: var(--rule); }
.legend { list-style: none; padding: 0; margin-top: 1rem; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; }

.bars tbody th { padding: .3rem .75rem .3rem 0; width: 11rem; line-height: 1.3; }
.bars th small { white-space: nowrap; }
.bars thead th:nth-child(2) { padding-left: 0; }
.bars td { padding: .3rem 0 .3rem .75rem; }
.bars td.grid { padding: .3rem 0; vertical-align: middle;
  background: repeating-linear-gradient(to right, var(--rule) 0 1px, transparent 1px 25%);
  box-shadow: inset -1px 0 var(--rule); }
.bars td.axis { padding: 0; }
.bars td svg, .frame svg { display: block; overflow: visible; }
.bars td.number { width: 4.5rem; color: var(--soft); font-size: .9rem; }
.bars td.m0 { color: var(--ink); font-weight: 650; font-size: 1rem; }
.bars thead .number { width: 4.5rem; }
.bars thead .swatch { margin: 0; vertical-align: middle; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

.plot { max-width: 42rem; margin-top: 1rem; }
.frame { height: 20rem; margin: .9rem 1rem 1.75rem 2.25rem; }
.under { margin-left: 2.25rem; }

.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 2rem 1.5rem;
  margin-top: 1.25rem; align-items: start; }
.pairs img { display: block; max-width: 100%; height: auto; border-radius: 2px;
  outline: 1px solid var(--rule); }
figcaption { margin-top: .5rem; }
figcaption b { color: var(--ink); font-weight: 650; }

dl { display: grid; grid-template-columns: minmax(7rem, 12rem) 1fr; gap: .35rem 1.25rem; margin-top: 1rem; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; }
code { font: .92em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.lines { padding-left: 1.1rem; margin-top: .75rem; }
summary { cursor: pointer; margin-top: 1rem; color: var(--soft); }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }

@media (max-width: 40rem) {
  h2 { margin-top: 2.75rem; }
  .frame { height: 15rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
  /* A label has a line of its own, the numbers are below it. */
  .scroll table, .bars, thead, tbody, tfoot { display: block; }
  tr { display: grid; }
  thead tr { align-items: end; }
  .figures tr { grid-template-columns: repeat(var(--columns), minmax(4.6rem, 1fr)); }
  .figures { min-width: calc(4.6rem * var(--columns)); }
  .bars tr { grid-template-columns: 1fr repeat(var(--columns), 3rem); align-items: center; }
  thead th:first-child, tbody th { grid-column: 1 / -1; }
  .figures td, .figures thead th { padding: 0 0 .45rem; }
  .figures td small { font-size: .75rem; }
  .figures .published td { padding: 0 0 .15rem; }
  .figures .published th { padding: .3rem 0 0; font-size: .9rem; line-height: 1.2; }
  .figures tbody th { padding: .45rem 0 0; }
  .figures tbody th small { display: inline; margin-left: .5rem; }
  .bars thead th:nth-child(2) { grid-column: 1; }
  .bars tfoot td:first-child { display: none; }
  .bars tbody th { width: auto; padding: .3rem 0 0; font-size: .9rem; }
  .bars td.grid { padding: .15rem 0 .3rem; }
  .bars td.number, .bars thead .number { width: auto; padding-left: .4rem; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --rule: #ccc; --tint: #f2f5f7; /*light*/ }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  h2 { margin-top: 2rem; }
  h2, h3, thead { break-after: avoid; }
  tr, figure, .plot, p { break-inside: avoid; }
  .pairs { grid-template-columns: 1fr 1fr; gap: 1rem; }
  .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
