"""The style sheet of a report's page: plain, in the reader's own light or dark."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --card: #f6f7f9; --words: #1b2027; --muted: #5c6673; --line: #dfe3e8;
  --s0: #0072b2; --s1: #c8500a; --s2: #00805c; --bad: #b3261e; --bad-ground: #fdecea }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1d2127; --words: #e7eaee; --muted: #98a2af;
  --line: #323841; --s0: #5ab4f0; --s1: #f29a5c; --s2: #3ecf9f; --bad: #ff8a80; --bad-ground: #3a1f1d } }
* { box-sizing: border-box }
body { max-width: 76rem; margin: 0 auto; padding: 1.5rem; background: var(--ground); color: var(--words);
  font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1rem; margin: 0 }
section { margin: 1.8rem 0 0 }
section h2 { margin-bottom: .4rem }
.muted { color: var(--muted); margin: .2rem 0 1rem }
.warning { background: var(--bad-ground); color: var(--bad); border-radius: 6px; padding: .5rem .8rem; margin: .5rem 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 1rem 0 }
.tiles div { background: var(--card); border-radius: 8px; padding: .7rem .9rem }
.tiles span { display: block; color: var(--muted); font-size: .85rem }
.tiles b { display: block; font-size: 1.4rem; font-weight: 600; font-variant-numeric: tabular-nums }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 0 2rem }
figure { margin: 1.8rem 0 0; min-width: 0 }
.charts > section { min-width: 0 }
.legend { margin: .2rem 0; color: var(--muted); font-size: .85rem }
.legend span { margin-right: 1.2rem; white-space: nowrap }
.key, .dot { display: inline-block; margin-right: .4rem; vertical-align: middle; background: var(--color) }
.key { width: 1.1rem; height: 3px }
.dot { width: 7px; height: 7px; border-radius: 50% }
.s0 { --color: var(--s0) } .s1 { --color: var(--s1) } .s2 { --color: var(--s2) }
.median, .tail { --color: var(--words) }
.key.tail { background: repeating-linear-gradient(to right, var(--words) 0 4px, transparent 4px 7px) }
svg { display: block; width: 100%; height: auto }
svg path { fill: none; stroke: var(--color); stroke-linejoin: round; stroke-linecap: round }
svg .grid { stroke: var(--line) }
svg .curve { stroke-width: 2 }
svg .tail { stroke-dasharray: 4 4 }
svg .dots { stroke-width: 3.5; opacity: .4 }
svg .knots { stroke-width: 7 }
svg .failed { stroke: var(--bad); stroke-width: 2 }
svg text { fill: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums }
svg .mark-x, svg .title { text-anchor: middle }
svg .mark-y { text-anchor: end }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { color: var(--muted); font-weight: 500; font-size: .85rem }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
"""
