"use strict";
// The interactive part of the report.  Data: see page.py.
(() => {
  const element = id => document.getElementById(id);
  const data = JSON.parse(element("data").textContent);
  const unpacked = text => new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const templates = data.templates.map(rows => rows.map(unpacked));
  const length = templates[0][0].length, baseline = unpacked(data.baseline);
  const times = Array.from({length: data.bins}, (_, i) => data.start + (i + 0.5) * data.bin);
  const shown = value => value == null ? "–" : Number(value.toPrecision(3)).toString();
  const colour = name => getComputedStyle(document.body).getPropertyValue(name).trim();

  const choices = {trial: data.trials, unit: data.units};
  choices.template = ["all", ...templates.keys()].map(String);
  for (const [name, values] of Object.entries(choices)) {
    values.forEach((value, i) => element(name).add(new Option(value, i)));
    element(name).addEventListener("change", draw);
  }
  const chosen = name => Number(element(name).value);
  const isShown = k => chosen("template") === 0 || chosen("template") === k + 1;

  const whole = {min: times[0], max: times[data.bins - 1]};
  let plots = [], events = [], current = -1, view = whole;  // `view` is the time that is shown

  // What is shown of the trial and the unit that are chosen.
  function columns() {
    const [trial, unit] = [chosen("trial"), chosen("unit")];
    const gaps = text => Array.from(unpacked(text), v => Number.isNaN(v) ? null : v);
    const added = templates.map(() => new Array(data.bins).fill(0));
    const row = data.joint ? 0 : unit;
    events = data.events.filter(e => e[0] === trial && e[1] === row && isShown(e[2]))
      .sort((a, b) => a[3] - b[3]);
    for (const [, , k, onset, amplitude] of events)
      templates[k][data.joint ? unit : 0].forEach((value, i) => {
        if (onset + i >= 0 && onset + i < data.bins) added[k][onset + i] += amplitude * value;
      });
    return {
      measured: gaps(data.measured[trial][unit]),
      fitted: gaps(data.fitted[trial][unit]),
      baseline: times.map(() => baseline[trial * data.units.length + unit]),
      added: added.map((values, k) => isShown(k) ? values : values.map(() => null)),
    };
  }

  function axes(label, time) {
    const look = {stroke: colour("--quiet"), grid: {stroke: colour("--line"), width: 1}};
    look.ticks = {stroke: colour("--line"), width: 1};
    return [{...look, label: time}, {...look, label, size: 64}];
  }

  function plot(id, height, series, values, label, time, more) {
    const target = element(id);
    target.replaceChildren();
    const at = {label: time, value: (_, v) => shown(v)};
    const named = series.map(one => ({value: (_, v) => shown(v), points: {show: false}, ...one}));
    return new uPlot({
      width: target.clientWidth, height, series: [at, ...named], axes: axes(label, time),
      scales: {x: {time: false}}, ...more,
    }, values, target);
  }

  // Spikes as marks at the top of the panel.
  function drawMarks(u, measured) {
    const ctx = u.ctx, {left, top, width} = u.bbox;
    ctx.save();
    ctx.strokeStyle = colour("--ink");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([]);
    ctx.beginPath();
    measured.forEach((value, i) => {
      const x = value > 0 ? u.valToPos(times[i], "x", true) : -1;
      if (x < left || x > left + width) return;
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + 14 * devicePixelRatio);
    });
    ctx.stroke();
    ctx.restore();
  }

  // Onsets as triangles, pale if the event is improbable.
  function drawOnsets(u) {
    const ctx = u.ctx, {left, width} = u.bbox, size = 5 * devicePixelRatio;
    const y = u.valToPos(0, "y", true);
    ctx.save();
    events.forEach(([, , k, onset, , probability]) => {
      const x = u.valToPos(data.start + onset * data.bin, "x", true);
      if (x < left || x > left + width) return;
      ctx.globalAlpha = 0.15 + 0.85 * (probability ?? 1);
      ctx.fillStyle = data.colours[k];
      ctx.beginPath();
      ctx.moveTo(x - size, y + 2 * size);
      ctx.lineTo(x + size, y + 2 * size);
      ctx.lineTo(x, y);
      ctx.fill();
    });
    ctx.restore();
  }

  function drawTemplates(unit) {
    const width = data.time === "s" ? 1000 * data.bin : 1, scaled = [];
    for (const [k, rows] of templates.entries()) {
      const sizes = data.events.filter(e => e[2] === k).map(e => Math.abs(e[4])).sort((a, b) => a - b);
      const median = sizes.length ? sizes[sizes.length >> 1] : 1;
      scaled.push(Array.from(rows[data.joint ? unit : 0], v => isShown(k) ? median * v : null));
    }
    const from = Array.from({length}, (_, i) => (i + 0.5) * width);
    const series = data.colours.map((stroke, k) => ({label: `template ${k}`, stroke, width: 2}));
    const label = `change of ${data.eta}`;
    const time = `time from onset (${data.time === "s" ? "ms" : "bins"})`;
    return plot("shape", 190, series, [from, ...scaled], label, time, {});
  }

  function draw() {
    const before = view;
    plots.forEach(u => u.destroy());
    const found = columns(), time = `time (${data.time})`, cursor = {sync: {key: "time"}};
    const bars = uPlot.paths.bars({size: [1, Infinity], gap: 0, align: 0});
    const measured = data.marks
      ? {label: "measured", show: true, stroke: "transparent", width: 0, scale: "marks"}
      : {label: "measured", fill: "#a9afb5", stroke: "#a9afb5", width: 0, paths: bars};
    const ink = colour("--ink");
    const rate = [measured, {label: "fit", stroke: ink, width: 1.5},
      {label: "baseline", stroke: ink, dash: [5, 4], width: 1}];
    const hooks = {
      draw: [u => { if (data.marks) drawMarks(u, found.measured); }],
      setScale: [(u, name) => { if (name === "x") view = {...u.scales.x}; }],
    };
    const values = [times, found.measured, found.fitted, found.baseline];
    const scales = {x: {time: false}, y: {range: (u, low, high) => [Math.min(low, 0), high * 1.2 || 1]}};
    const added = data.colours.map((stroke, k) => ({label: `template ${k}`, stroke, width: 1.5}));
    plots = [
      plot("rate", 230, rate, values, data.label, time, {cursor, hooks, scales}),
      plot("added", 190, added, [times, ...found.added], data.eta, time,
        {cursor, hooks: {draw: [drawOnsets]}}),
    ];
    zoom(before.min, before.max);
    plots.push(drawTemplates(chosen("unit")));
    current = -1;
    element("event").textContent = `${events.length} event${events.length === 1 ? "" : "s"} here`;
  }

  function zoom(min, max) {
    view = {min: Math.max(min, whole.min), max: Math.min(max, whole.max)};
    plots.slice(0, 2).forEach(u => u.setScale("x", view));
  }

  function magnify(factor) {
    const {min, max} = view, middle = (min + max) / 2;
    const half = Math.max(factor * (max - min) / 2, 2 * data.bin);
    zoom(middle - half, middle + half);
  }

  function step(by) {
    if (!events.length) return;
    current = current < 0 ? (by > 0 ? 0 : events.length - 1)
      : (current + by + events.length) % events.length;
    const [, , k, onset, amplitude, probability] = events[current];
    const at = data.start + onset * data.bin, reach = length * data.bin;
    zoom(at - 2 * reach, at + 3 * reach);
    const likely = probability == null ? "" : `, probability ${shown(probability)}`;
    element("event").textContent = `event ${current + 1} of ${events.length}: template ${k} at `
      + `${Number(at.toPrecision(6))} ${data.time}, amplitude ${shown(amplitude)}${likely}`;
  }

  const buttons = {
    before: () => step(-1), after: () => step(1), nearer: () => magnify(0.5),
    farther: () => magnify(2), whole: () => zoom(-Infinity, Infinity),
  };
  for (const [id, act] of Object.entries(buttons)) element(id).addEventListener("click", act);
  const sizes = {units: data.units.length, trials: data.trials.length, bins: data.bins};
  const parts = Object.entries(sizes).filter(([name, size]) => size < data.all[name])
    .map(([name, size]) => `${size} of ${data.all[name]} ${name}`);
  if (parts.length)
    element("part").textContent = `Here are ${parts.join(", ")}: where events are most or largest.`;
  element("explore").hidden = false;
  const most = data.trials.map((_, t) => data.events.filter(e => e[0] === t).length);
  element("trial").value = most.indexOf(Math.max(...most));
  const here = data.events.filter(e => e[0] === chosen("trial"));
  const weights = data.units.map((_, u) => data.joint
    ? Math.max(...templates.map(rows => Math.max(...rows[u].map(Math.abs))))
    : here.filter(e => e[1] === u).length);
  element("unit").value = weights.indexOf(Math.max(...weights));
  draw();
  if (data.bins > 60 * length) step(1);
  const resize = () => plots.forEach(u => u.setSize(
    {width: u.root.parentNode.clientWidth, height: u.height}));
  addEventListener("resize", resize);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
