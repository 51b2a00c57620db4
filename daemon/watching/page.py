"""The status page: one self-contained document that draws `/status.json` every two seconds."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sise</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8889; --good: #1a7f37; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
header { display: flex; align-items: baseline; gap: 1rem; flex-wrap: wrap; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1rem; margin: 2rem 0 .4rem; }
.state { font-weight: 600; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.soft { color: var(--soft); }
#numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 1rem; margin-top: 1.5rem; }
#numbers div { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; }
#numbers b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
<header><h1>Sise</h1><span class="state" id="state" role="status">loading</span>
<span class="soft" id="time"></span></header>
<ul id="reasons" class="bad"></ul>
<div id="numbers"></div>
<h2>Processes</h2><div class="scroll"><table id="processes"></table></div>
<h2>Markets</h2><div class="scroll"><table id="markets"></table></div>
<h2>Sessions</h2><div class="scroll"><table id="sessions"></table></div>
<ul id="problems" class="bad"></ul>
<h2>Completeness and alerts</h2><div class="scroll"><table id="counts"></table></div>
<h2>Age of records, last minute</h2><div class="scroll"><table id="ages"></table></div>
<h2>Rings</h2><div class="scroll"><table id="rings"></table></div>
<noscript>The numbers are in <a href="/status.json">/status.json</a>.</noscript>
<script>
"use strict";
const at = id => document.getElementById(id);
const number = n => n.toLocaleString("en-US", { maximumFractionDigits: 1 });
const mib = n => number(n / 1048576) + " MiB";
const age = us => us === null || us === undefined ? "–"
  : us < 1000 ? us + " µs" : us < 1e6 ? number(us / 1000) + " ms" : number(us / 1e6) + " s";
const span = s => s < 90 ? Math.round(s) + " s" : s < 5400 ? Math.round(s / 60) + " min" : number(s / 3600) + " h";
function element(tag, text, kind) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
function table(id, head, rows) {
  const line = (tag, cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map(cell => Array.isArray(cell) ? element(tag, cell[0], cell[1]) : element(tag, cell)));
    return row;
  };
  at(id).replaceChildren(line("th", head), ...rows.map(cells => line("td", cells)));
}
const ago = s => s === null || s === undefined ? "–" : span(s) + " ago";
const shownProblems = 50;
const names = { frames_received: "frames", records_received: "records received", records_published: "published",
  rows_committed: "rows committed", records_quarantined: "quarantined" };
function draw(status) {
  at("state").textContent = status.ready ? "ready" : status.alive ? "not ready" : "not alive";
  at("state").className = "state " + (status.ready ? "good" : "bad");
  at("time").textContent = status.time.slice(0, 19).replace("T", " ") + " UTC";
  at("reasons").replaceChildren(...[...status.reasons, ...status.notes].map(reason => element("li", reason)));
  at("numbers").replaceChildren(...Object.entries(names).map(([key, label]) => {
    const box = element("div", "");
    box.append(element("b", number(status.totals[key])),
      element("span", label + ", " + number(status.per_second[key]) + "/s", "soft"));
    return box;
  }));
  table("processes", ["process", "pid", "state", "heartbeat", "up", "starts", "memory"], status.processes.map(p => [
    p.name, p.pid, [p.state, p.state === "running" ? "good" : "bad"], number(p.silent_for_s) + " s ago",
    span(p.uptime_s), p.starts, mib(p.rss_bytes)]));
  table("markets", ["market", "state", "last data", "next change"], status.markets.map(market => [
    market.name, [market.open ? "open" : "closed", market.open ? "good" : "soft"], ago(market.last_data_age_s),
    market.changes_at ? market.changes_at.slice(0, 16).replace("T", " ") + " UTC" : "–"]));
  table("sessions", ["account", "venue", "worker", "state", "confirmed", "last data"], status.sessions.map(s => [
    s.account, s.venue, s.worker, s.state, [s.confirmed + " of " + s.desired, s.confirmed < s.desired ? "bad" : ""],
    ago(s.last_data_age_s)]));
  const problems = status.sessions.flatMap(s => s.problems.map(p =>
    s.account + ": " + [p.market, p.exchange, p.kind, p.symbol, p.state, p.reason].filter(Boolean).join(" ")));
  at("problems").replaceChildren(...problems.slice(0, shownProblems).map(text => element("li", text)),
    ...(problems.length > shownProblems ? [element("li", (problems.length - shownProblems) + " more")] : []));
  const counts = { ...status.completeness, ...Object.fromEntries(
    Object.entries(status.alerts).map(([name, n]) => ["alerts " + name, n])),
    "minutes compared": status.reconcile.minutes, "counts that differ": status.reconcile.differences ?? 0 };
  table("counts", Object.keys(counts).map(name => name.replaceAll("_", " ")), [Object.values(counts).map(number)]);
  table("ages", ["stage", "p50", "p99", "p99.9"], Object.entries(status.age_us).map(([stage, ages]) => [
    stage, age(ages.p50), age(ages.p99), age(ages.p99_9)]));
  table("rings", ["ring", "size", "written", "writer behind", "publisher behind"], status.rings.map(ring => [
    ring.name, mib(ring.capacity_bytes), mib(ring.written_bytes),
    ...["writer", "publisher"].map(name => ring.consumers[name] ? mib(ring.consumers[name].lag_bytes) : "–")]));
}
async function refresh() {
  try {
    draw(await (await fetch("/status.json", { cache: "no-store" })).json());
  } catch {
    at("state").textContent = "monitor not reachable";
    at("state").className = "state bad";
  }
  setTimeout(refresh, 2000);
}
refresh();
</script>
</body>
</html>
"""
