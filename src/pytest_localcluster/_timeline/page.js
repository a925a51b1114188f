"use strict";
// Draws the lanes from the data in the page: only what is in view, and at most one bar for each pixel.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const lanes = document.getElementById("lanes"), details = document.getElementById("details");
  const LABELS = 168, LINE = 17, HEAD = 22, AXIS = 24, SVG = "http://www.w3.org/2000/svg";
  const KINDS = { phase: "phase of the test", fixture: "fixture", session: "step, as a session of the test sees it",
    start: "task, until it is ready", life: "task, until it ends", fault: "fault", function: "function given to run()", step: "step, in its master",
    part: "part of a step", op: "operation", more: "operations", recv: "wait for a tensor", call: "wait for another task's part",
    death: "death", log: "line of a log", ready: "ready", stop: "asked to stop", end: "end", reset: "reset" };
  const shown = { tensor: true, request: false, log: true };
  let from = 0, to = Math.max(data.length, 1e-3), width = 1000, chosen = null, pinned = false;

  // Where everything is, from top to bottom.
  const bars = [], rows = [];
  let height = AXIS;
  for (const group of data.groups) {
    group.y = height;
    height += HEAD;
    for (const row of group.rows) {
      row.y = height;
      row.group = group;
      height += row.lines * LINE + 3;
      rows.push(row);
      row.items = row.bars.map(([begin, end, kind, name, depth, flags, facts]) => {
        const bar = { begin, end, kind, name, y: row.y + depth * LINE, failed: flags & 1, open: flags & 2, facts, row };
        bars.push(bar);
        return bar;
      }).sort((a, b) => a.begin - b.begin);
      row.dots = row.marks.map(([at, kind, name, failed, facts]) => ({ begin: at, end: at, kind, name, failed, facts, row, dot: true }));
    }
    height += 6;
  }

  const make = (parent, tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const x = at => LABELS + (at - from) / (to - from) * (width - LABELS - 8);
  const time = ms => ms === 0 ? "0 ms" : ms >= 1000 ? (ms / 1000).toPrecision(4) + " s" : ms >= 1 ? ms.toPrecision(4) + " ms" : (ms * 1000).toPrecision(3) + " \u00b5s";
  const clip = (text, room) => text.length * 6.2 <= room ? text : room > 26 ? text.slice(0, Math.floor(room / 6.2) - 1) + "\u2026" : "";

  function axis(svg) {
    const rough = (to - from) / Math.max(2, (width - LABELS) / 110), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= rough);
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
      make(svg, "line", { class: "grid", x1: x(at), x2: x(at), y1: AXIS - 4, y2: height });
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      make(svg, "text", { class: "tick", x: x(at) + 2, y: 13 }, step >= 1000 ? at / 1000 + " s" : at.toFixed(digits) + " ms");
    }
  }

  function drawBar(svg, bar, last) {
    const left = Math.max(LABELS, x(bar.begin)), right = Math.min(width - 8, x(bar.end));
    if (right < LABELS || left > width - 8) return last;
    // What is less than a pixel to the right of the last one would only be painted over it.
    if (right < last + 0.7 && !bar.failed && bar !== chosen) return last;
    const room = right - left, thin = bar.kind === "life" || bar.kind === "start", tall = thin ? 7 : LINE - 3;
    const state = (bar.failed ? " failed" : "") + (bar.open ? " open" : "") + (bar === chosen ? " chosen" : "");
    const box = make(svg, "rect", { class: "bar k-" + bar.kind + state, x: left, width: Math.max(1.2, room), y: bar.y + (LINE - 3 - tall) / 2, height: tall, rx: Math.min(2, room / 4) });
    box.item = bar;
    const text = thin ? "" : clip(bar.name || bar.kind, room - 6);
    if (text) make(svg, "text", { class: "label" + (["call", "fixture"].includes(bar.kind) ? " dark" : ""), x: left + 3, y: bar.y + 11 }, text);
    return right;
  }

  function drawDot(svg, dot, last) {
    const at = x(dot.begin), y = dot.row.y + 7;
    if (at < LABELS || at > width - 6) return last;
    if (dot.kind === "log" && at < last + 1.5 && dot !== chosen) return last;
    const css = "mark k-" + dot.kind + (dot === chosen ? " chosen" : "");
    const shape = dot.kind === "log" ? { d: `M${at - 2} ${y - 6}h4v12h-4z` }
      : dot.kind === "death" ? { d: `M${at - 6} ${y - 4}l2-2l4 4l4-4l2 2l-4 4l4 4l-2 2l-4-4l-4 4l-2-2l4-4z` }
      : { d: `M${at} ${y - 6}l6 6l-6 6l-6-6z` };
    make(svg, "path", { class: css, ...shape }).item = dot;
    return at;
  }

  function drawArrow(svg, lasts, [source, left, target, came, kind, name, size]) {
    if (!shown[kind === "tensor" ? "tensor" : "request"]) return;
    const a = bars[source], b = bars[target], x1 = x(left), x2 = x(came);
    if (Math.max(x1, x2) < LABELS || Math.min(x1, x2) > width) return;
    // Between the same lines one every few pixels is enough to see that there are many.
    const way = kind + a.y + "-" + b.y;
    if (Math.abs(x2 - (lasts.get(way) ?? -99)) < 4) return;
    lasts.set(way, x2);
    const y1 = a.y + LINE / 2 - 1, y2 = b.y + LINE / 2 - 1, bend = Math.max(12, Math.min(60, Math.abs(x2 - x1) / 2));
    const path = make(svg, "path", { class: "arrow " + kind, "marker-end": "url(#tip)", d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
    path.item = { begin: left, end: came, kind, name: name || kind, row: a.row, facts: { to: b.row.group.name, ...(size ? { size } : {}) }, arrow: true };
  }

  function draw() {
    width = Math.max(420, lanes.clientWidth);
    const svg = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${data.groups.length} lanes, ${bars.length} bars` })) svg.setAttribute(name, value);
    const tips = make(svg, "defs", {}), tip = make(tips, "marker", { id: "tip", viewBox: "0 0 6 6", refX: 5, refY: 3, markerWidth: 5, markerHeight: 5, orient: "auto" });
    make(tip, "path", { d: "M0 0L6 3L0 6z", fill: "context-stroke" });
    make(make(tips, "clipPath", { id: "inside" }), "rect", { x: LABELS, y: 0, width: width - LABELS, height });
    data.groups.forEach((group, n) => {
      const end = n + 1 < data.groups.length ? data.groups[n + 1].y : height;
      make(svg, "rect", { class: "band", x: 0, y: group.y, width, height: HEAD - 4 });
      make(svg, "text", { class: "group", x: 8, y: group.y + 13 }, group.name);
      if (group.note) make(svg, "text", { class: "note", x: 16 + group.name.length * 7, y: group.y + 13 }, group.note);
      if (end > height) height = end;
    });
    axis(svg);
    for (const row of rows) {
      make(svg, "text", { class: "name", x: 16, y: row.y + 11 }, clip(row.name, LABELS - 20));
      const ends = new Map();
      for (const bar of row.items) ends.set(bar.y, drawBar(svg, bar, ends.get(bar.y) ?? -1));
    }
    const arrows = make(svg, "g", { "clip-path": "url(#inside)" });
    const lasts = new Map();
    for (const arrow of data.arrows) drawArrow(arrows, lasts, arrow);
    for (const row of rows) {
      let last = -10;
      for (const dot of row.dots) if (dot.kind !== "log" || shown.log) last = drawDot(svg, dot, last);
    }
    lanes.replaceChildren(svg);
    document.getElementById("range").textContent = `${time(from)} to ${time(to)} of ${time(data.length)}`;
  }

  function tell(item) {
    const title = document.createElement("strong"), list = document.createElement("dl");
    title.textContent = (item.failed ? "\u2717 " : "") + (item.name || item.kind);
    const facts = { what: KINDS[item.kind] || item.kind, where: `${item.row.group.name}, ${item.row.name}`, at: time(item.begin) };
    if (item.end > item.begin) facts.took = time(item.end - item.begin) + (item.open ? ", as far as was seen: its end was not" : "");
    if (item.failed && !item.facts.error && !item.dot) facts.result = "it failed";
    for (const [label, text] of Object.entries({ ...facts, ...item.facts })) {
      const term = document.createElement("dt"), what = document.createElement("dd");
      term.textContent = label;
      what.textContent = text;
      list.append(term, what);
    }
    details.replaceChildren(title, list);
  }

  function view(begin, end) {
    const length = Math.max(data.length, 1e-3), span = Math.min(length, Math.max(end - begin, 0.002));
    from = Math.max(0, Math.min(begin, length - span));
    to = from + span;
    draw();
  }
  const zoom = (factor, at = (from + to) / 2) => view(at - (at - from) * factor, at + (to - at) * factor);
  const move = share => view(from + (to - from) * share, to + (to - from) * share);
  function choose(item) {
    chosen = item;
    pinned = item !== null;
    if (item) {
      tell(item);
      if (item.begin < from || item.end > to) { const span = Math.max(to - from, (item.end - item.begin) * 1.5); view(item.begin - span / 2, item.begin + span / 2); return; }
    }
    draw();
  }
  const deeds = { in: () => zoom(0.5), out: () => zoom(2), left: () => move(-0.25), right: () => move(0.25), all: () => view(0, data.length),
    call: () => { const bar = bars.find(bar => bar.kind === "phase" && bar.name === "call"), edge = bar && (bar.end - bar.begin) / 30; if (bar) view(bar.begin - edge, bar.end + edge); } };

  document.getElementById("tools").addEventListener("click", event => { const deed = deeds[event.target.dataset.do]; if (deed) deed(); });
  document.getElementById("tools").addEventListener("change", event => { shown[event.target.dataset.show] = event.target.checked; draw(); });
  const order = [...bars].sort((a, b) => a.begin - b.begin);
  lanes.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const deed = { "+": deeds.in, "=": deeds.in, "-": deeds.out, ArrowLeft: deeds.left, ArrowRight: deeds.right, 0: deeds.all, c: deeds.call,
      n: () => choose(order[Math.min(order.length - 1, order.indexOf(chosen) + 1)]), p: () => choose(order[Math.max(0, order.indexOf(chosen) - 1)]),
      Escape: () => choose(null) }[event.key];
    if (deed) { event.preventDefault(); deed(); }
  });
  lanes.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.shiftKey && !event.metaKey) return;  // the page scrolls, as ever
    event.preventDefault();
    const share = (event.clientX - lanes.getBoundingClientRect().left - LABELS) / (width - LABELS - 8);
    zoom(event.deltaY > 0 ? 1.25 : 0.8, from + share * (to - from));
  }, { passive: false });
  let drag = null;
  lanes.addEventListener("pointerdown", event => { drag = { at: event.clientX, from, to, moved: false }; });
  window.addEventListener("pointermove", event => {
    if (!drag) return;
    const by = (event.clientX - drag.at) / (width - LABELS - 8) * (drag.to - drag.from);
    if (Math.abs(event.clientX - drag.at) > 3) drag.moved = true;
    if (drag.moved) view(drag.from - by, drag.to - by);
  });
  window.addEventListener("pointerup", event => {
    const moved = drag && drag.moved, inside = drag;
    drag = null;
    if (inside && !moved) choose(event.target.item || null);
  });
  lanes.addEventListener("pointerover", event => { if (event.target.item && !pinned) tell(event.target.item); });
  document.querySelector("table").addEventListener("click", event => {
    const at = parseFloat(event.target.dataset.at);
    if (Number.isNaN(at)) return;
    const span = Math.min(to - from, data.length / 10);
    view(at - span / 2, at + span / 2);
    lanes.scrollIntoView({ block: "nearest" });
  });

  const used = new Set([...bars, ...rows.flatMap(row => row.dots)].map(item => item.kind)), legend = document.getElementById("legend");
  for (const kind of Object.keys(KINDS)) {
    if (!used.has(kind)) continue;
    const entry = document.createElement("li"), box = document.createElementNS(SVG, "svg");
    make(box, "rect", { class: "k-" + kind, width: 12, height: 12, rx: 2 });
    entry.append(box, KINDS[kind]);
    legend.append(entry);
  }
  for (const text of document.querySelectorAll("pre")) text.scrollTop = text.scrollHeight;  // the reason is at its end
  const missing = document.getElementById("left-out");
  if (!missing.querySelector("li")) missing.hidden = true;
  new ResizeObserver(() => draw()).observe(lanes);
  // An address that ends with #400-650 shows these milliseconds.
  const part = () => { const [, begin, end] = /^#([\d.]+)-([\d.]+)$/.exec(location.hash) || [, 0, data.length]; view(+begin, +end); };
  window.addEventListener("hashchange", part);
  part();
})();
