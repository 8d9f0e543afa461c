"use strict";
/* Filters of tables, links into closed details, and the learning curves. Everything that comes from runs is set as text. */
(() => {
  const byId = (id) => document.getElementById(id);
  const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);

  // --- tables: a line is shown that has all words

  for (const input of document.querySelectorAll("input[data-filters]")) {
    const output = input.closest("p").querySelector("output");
    input.addEventListener("input", () => {
      const wanted = words(input.value);
      const rows = [...byId(input.dataset.filters).tBodies[0].rows];
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      output.textContent = wanted.length ? `${shown} of ${rows.length}` : "";
    });
  }

  // --- links to a run open it

  const open = () => {
    const target = location.hash && byId(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.scrollIntoView({ block: "nearest" });
    }
  };
  addEventListener("hashchange", open);
  open();

  // --- on paper all images are in sight

  addEventListener("beforeprint", () => {
    for (const image of document.querySelectorAll("img[loading]")) image.loading = "eager";
  });

  // --- learning curves

  const curves = JSON.parse(byId("curves-data").textContent);
  const place = byId("chart");
  if (!place || !curves.runs.length) return;

  // a model has its colour, that of the figures; its dashes distinguish its settings
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
  const colour = (model) => curves.colours[model];
  const dash = (model) => DASHES[curves.variants[model] % DASHES.length];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const epochs = curves.epochs;
  const shown = new Set(curves.shown.length ? curves.shown : curves.models.map((_, i) => i));
  const [data, metric, seeds, from, to, outliers] = ["data", "metric", "seeds", "from", "to", "outliers"].map((id) => byId(`chart-${id}`));

  // metrics of other data, or of another output, are not compared: one of them is drawn at a time
  const inSight = (model) => curves.column[model] === Number(data.value);
  curves.columns.forEach((name, at) => {
    if (curves.runs.some((run) => curves.column[run.model] === at)) data.add(new Option(name, at));
  });
  const several = data.options.length > 1;
  data.closest("label").hidden = !several;

  /** All epochs of the curves in sight. */
  function wholeRange() {
    let last = 1;
    for (const run of curves.runs) if (inSight(run.model)) for (const values of run.values) last = Math.max(last, values.length);
    return [epochs[0], epochs[last - 1]];
  }
  let whole = wholeRange(), range = [...whole], chart = null, lines = [];

  for (const name of curves.metrics) metric.add(new Option(name, name));

  const padded = (values) => epochs.map((_, i) => (i < values.length ? values[i] : null));

  /** The lines to draw: one per seed, or one per model. */
  function linesOf() {
    const at = curves.metrics.indexOf(metric.value);
    const each = curves.runs
      .filter((run) => inSight(run.model) && shown.has(run.model) && run.values[at].length)
      .map((run) => ({ model: run.model, label: run.label, values: padded(run.values[at]) }));
    if (seeds.value === "each") return each;
    const byModel = new Map();
    for (const line of each) byModel.set(line.model, [...(byModel.get(line.model) || []), line]);
    return [...byModel].map(([model, group]) => ({
      model,
      label: `mean of ${group.length}`,
      values: epochs.map((_, i) => {
        const values = group.map((line) => line.values[i]);
        return values.some((value) => value === null) ? null : values.reduce((a, b) => a + b, 0) / values.length;
      }),
    }));
  }

  /** The range of the values in sight: the first epochs, which are far off, are cut unless the user includes them. */
  function heights() {
    const seen = [];
    for (const line of lines)
      for (let i = 0; i < epochs.length; i++)
        if (line.values[i] !== null && epochs[i] >= range[0] && epochs[i] <= range[1]) seen.push(line.values[i]);
    if (!seen.length) return [0, 1];
    seen.sort((a, b) => a - b);
    const pick = (q) => seen[Math.round(q * (seen.length - 1))];
    const [low, high] = outliers.checked ? [seen[0], seen[seen.length - 1]] : [pick(0.06), pick(0.98)];
    const pad = 0.15 * (high - low) || Math.abs(high) * 0.05 || 1;
    const ends = outliers.checked ? [low - pad / 3, high + pad / 3] : [Math.max(low - pad, seen[0] - pad / 3), Math.min(high + pad, seen[seen.length - 1] + pad / 3)];
    return ends;
  }

  const note = byId("chart-note");
  const hint = matchMedia("(pointer: coarse)").matches ? "Touch a curve for its values; the epochs in sight are chosen above." : note.textContent;

  const rest = () => { note.textContent = lines.length ? hint : "Nothing is chosen that has this figure."; };

  /** The line under the pointer, in words. */
  function describe(u, at) {
    const { idx } = u.cursor;
    if (at === null || at === undefined || idx === null || idx === undefined) return rest();
    const line = lines[at - 1], value = line.values[idx], name = document.createElement("b");
    name.textContent = curves.models[line.model];
    const shownValue = value === null ? "none" : Number(value.toPrecision(5)).toString();
    note.replaceChildren(name, ` ${line.label}, epoch ${epochs[idx]}: ${shownValue}`);
  }

  function zoom(low, high) {
    const [a, b] = [Math.max(whole[0], Math.min(low, high)), Math.min(whole[1], Math.max(low, high))];
    range = b > a ? [a, b] : [...whole];
    draw();
  }

  function draw() {
    lines = linesOf();
    [from.value, to.value] = range.map(Math.round);
    if (chart) chart.destroy();
    const many = lines.length > 60, width = Math.max(200, place.clientWidth);
    const axis = { stroke: () => css("--faint"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line") } };
    let focused = null;
    chart = new uPlot(
      {
        width,
        height: width < 600 ? 320 : 420,
        scales: { x: { time: false, range: () => range }, y: { range: heights } },
        legend: { show: false },
        focus: { alpha: many ? 0.15 : 0.3 },
        cursor: { drag: { x: true, y: false, setScale: false }, focus: { prox: 30 }, points: { size: 6 }, bind: { dblclick: () => () => (zoom(...whole), null) } },
        axes: [
          { ...axis, label: "epoch", labelSize: 22, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
          { ...axis, size: 62, label: several ? `${metric.value}, ${data.selectedOptions[0].text}` : metric.value, labelSize: 20 },
        ],
        series: [
          {},
          ...lines.map((line) => ({ label: line.label, stroke: colour(line.model), dash: dash(line.model), width: many ? 1 : 1.5, points: { show: line.values.filter((value) => value != null).length === 1 } })),
        ],
        hooks: {
          setSeries: [(u, at) => describe(u, (focused = at))],
          setCursor: [(u) => describe(u, focused)],
          setSelect: [(u) => { if (u.select.width > 4) zoom(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")); }],
        },
      },
      [epochs, ...lines.map((line) => line.values)],
      place,
    );
    rest();
  }

  // --- controls

  const chips = document.querySelector("#chart-models .chips");
  const SVG = "http://www.w3.org/2000/svg";
  const boxes = curves.models.map((name, model) => {
    const label = document.createElement("label"), box = document.createElement("input");
    const swatch = document.createElementNS(SVG, "svg"), stroke = document.createElementNS(SVG, "line");
    box.type = "checkbox";
    box.checked = shown.has(model);
    box.addEventListener("change", () => { choose(model, box.checked); draw(); });
    for (const [key, value] of Object.entries({ width: 26, height: 8, "aria-hidden": true })) swatch.setAttribute(key, value);
    for (const [key, value] of Object.entries({ x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour(model), "stroke-width": 3, "stroke-dasharray": dash(model).join(" ") })) stroke.setAttribute(key, value);
    swatch.append(stroke);
    label.append(box, swatch, name);
    return { label, box, name: name.toLowerCase(), has: curves.runs.some((run) => run.model === model) };
  });
  chips.append(...boxes.filter((each) => each.has).map((each) => each.label));

  function choose(model, wanted) {
    boxes[model].box.checked = wanted;
    if (wanted) shown.add(model);
    else shown.delete(model);
  }

  for (const button of document.querySelectorAll("button[data-models]"))
    button.addEventListener("click", () => {
      boxes.forEach((each, model) => { if (!each.label.hidden) choose(model, each.has && button.dataset.models === "all"); });
      draw();
    });
  const filter = byId("chart-filter"); // where there are many
  function sift() {
    const wanted = filter ? words(filter.value) : [];
    boxes.forEach((each, model) => { each.label.hidden = !inSight(model) || !wanted.every((word) => each.name.includes(word)); });
  }
  if (filter) filter.addEventListener("input", sift);
  data.addEventListener("change", () => { whole = wholeRange(); sift(); zoom(...whole); });
  sift();
  for (const control of [metric, seeds, outliers]) control.addEventListener("change", draw);
  for (const end of [from, to]) end.addEventListener("change", () => zoom(Number(from.value), Number(to.value)));
  byId("chart-whole").addEventListener("click", () => zoom(...whole));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = place.clientWidth;
  new ResizeObserver(() => { if (Math.abs(place.clientWidth - width) > 1) { width = place.clientWidth; draw(); } }).observe(place);
  byId("chart-controls").hidden = byId("chart-models").hidden = false;
  draw();
})();
