"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const colors = ["#1a5fb4", "#c64600", "#1b7f3b", "#813d9c", "#a51d2d", "#986a44", "#0b7a75", "#77767b", "#b58900", "#d33682"];
const state = { section: 0, sort: null, descending: false, variant: null, tab: 0, shown: 40, search: "" };

function element(name, attributes, ...children) {
  const svg = ["svg", "g", "line", "circle", "path", "text", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// ---- plots ------------------------------------------------------------------------------------------------------

const box = { width: 560, height: 360, left: 52, right: 16, top: 14, bottom: 44 };

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const step of [1, 2, 5]) {
      const tick = step * 10 ** power;
      if (tick >= low && tick <= high) ticks.push(Number(tick.toPrecision(3)));
    }
  return ticks.length > 8 ? ticks.filter((tick) => /^1/.test(tick.toExponential())) : ticks;
}

function linearTicks(low, high) {
  const rough = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((candidate) => candidate >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) ticks.push(Number(tick.toPrecision(6)));
  return ticks;
}

function scales(plot) {
  const costs = plot.points.map((point) => point.cost);
  const ends = plot.points.flatMap((point) => [point.low ?? point.wer, point.high ?? point.wer]);
  const stretch = Math.max(1.15, (Math.max(...costs) / Math.min(...costs)) ** 0.08);
  const x = { low: Math.min(...costs) / stretch, high: Math.max(...costs) * stretch ** 2 };
  const span = Math.max(...ends) - Math.min(...ends) || 1;
  const y = { low: Math.max(0, Math.min(...ends) - 0.1 * span), high: Math.max(...ends) + 0.1 * span };
  const across = (value) =>
    box.left + (Math.log(value / x.low) / Math.log(x.high / x.low)) * (box.width - box.left - box.right);
  const down = (value) => box.top + ((y.high - value) / (y.high - y.low)) * (box.height - box.top - box.bottom);
  return { x, y, across, down };
}

function axes(plot, { x, y, across, down }) {
  const bottom = box.height - box.bottom;
  const parts = [];
  for (const tick of logTicks(x.low, x.high)) {
    parts.push(element("line", { class: "grid", x1: across(tick), x2: across(tick), y1: box.top, y2: bottom }));
    parts.push(element("text", { class: "faint", x: across(tick), y: bottom + 15, "text-anchor": "middle" }, String(tick)));
  }
  for (const tick of linearTicks(y.low, y.high)) {
    parts.push(element("line", { class: "grid", x1: box.left, x2: box.width - box.right, y1: down(tick), y2: down(tick) }));
    parts.push(element("text", { class: "faint", x: box.left - 6, y: down(tick) + 4, "text-anchor": "end" }, String(tick)));
  }
  const middle = (box.left + box.width - box.right) / 2;
  parts.push(element("text", { class: "faint", x: middle, y: box.height - 8, "text-anchor": "middle" }, plot.title));
  const turned = `translate(13 ${(box.top + bottom) / 2}) rotate(-90)`;
  parts.push(element("text", { class: "faint", transform: turned, "text-anchor": "middle" }, "word error rate (%)"));
  return parts;
}

// A name goes beside its point, where it meets no other name, no point and no edge.
function placeNames(points) {
  const taken = points.map(({ x, y }) => ({ left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 }));
  const free = (spot) =>
    spot.left >= box.left && spot.right <= box.width &&
    taken.every((t) => spot.right < t.left || spot.left > t.right || spot.bottom < t.top || spot.top > t.bottom);
  return points.map(({ x, y, text }) => {
    const width = 6.7 * text.length;
    const spots = [-12, 8, -26, 22, -40, 36, -54, 50].flatMap((shift) =>
      [x + 9, x - 9 - width].map((left) => ({ left, right: left + width, top: y + shift - 4, bottom: y + shift + 9 })));
    const spot = spots.find(free) || spots[0];
    taken.push(spot);
    return { x: spot.left, y: spot.bottom - 2 };
  });
}

function drawPlot(plot) {
  const scale = scales(plot);
  const { across, down } = scale;
  const picture = element("svg", { viewBox: `0 0 ${box.width} ${box.height}`, role: "group", "aria-label": plot.title });
  picture.append(...axes(plot, scale));
  const front = plot.front.map((i) => plot.points[i]);
  const path = front.map((point, i) => `${i ? "L" : "M"}${across(point.cost)} ${down(point.wer)}`).join("");
  picture.append(element("path", { class: "front", d: path }));
  const names = placeNames(plot.points.map((point) => ({ x: across(point.cost), y: down(point.wer), text: point.name })));
  plot.points.forEach((point, i) => {
    const [cx, cy] = [across(point.cost), down(point.wer)];
    const color = colors[point.row % colors.length];
    const place = names[i];
    const choose = () => select(point.row, true);
    picture.append(
      element(
        "g",
        {
          class: "point", tabindex: 0, role: "button", "data-row": point.row, onclick: choose,
          onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } },
        },
        element("title", {}, `${point.name}: ${point.wer.toFixed(2)} % at ${Number(point.cost.toPrecision(3))}`),
        point.low === null ? null
          : element("line", { x1: cx, x2: cx, y1: down(point.low), y2: down(point.high), stroke: color, "stroke-width": 2 }),
        element("circle", { cx, cy, r: 18, fill: "transparent" }), // room for a finger
        element("circle", { class: "dot", cx, cy, r: 5.5, fill: color }),
        element("text", { x: place.x, y: place.y, style: `fill:${color}` }, point.name),
      ),
    );
  });
  return element("div", {}, picture);
}

// ---- table ------------------------------------------------------------------------------------------------------

function ordered() {
  const rows = data.rows.map((row, index) => ({ row, index }));
  if (state.sort === null) return rows;
  const value = ({ row }) => (state.sort === "name" ? row.name : row.cells[state.sort].value);
  const rank = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null); // n/a last in either direction
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
    return state.descending ? -order : order;
  };
  return rows.sort((a, b) => rank(a, b) || a.index - b.index);
}

function sortBy(key) {
  state.descending = state.sort === key && !state.descending;
  state.sort = key;
  drawTable();
}

function heading(key, title) {
  const mark = state.sort === key ? (state.descending ? " \u25bc" : " \u25b2") : "";
  const direction = state.sort === key ? (state.descending ? "descending" : "ascending") : "none";
  const button = element("button", { type: "button", "data-key": key, onclick: () => sortBy(key) }, title + mark);
  return element("th", { scope: "col", "aria-sort": direction }, button);
}

function cell(content) {
  const kind = content.why ? "na" : ["better", "worse"].includes(content.text) ? content.text : "";
  return element("td", { class: kind, title: content.why }, content.text);
}

function drawTable() {
  const section = data.sections[state.section];
  const head = element("tr", {}, heading("name", "variant"), ...section.columns.map((c) => heading(c.key, c.title)));
  const body = ordered().map(({ row, index }) =>
    element(
      "tr",
      { "data-row": index, class: index === state.variant ? "chosen" : "", onclick: () => select(index, true) },
      element("td", {}, row.name),
      ...section.columns.map((column) => cell(row.cells[column.key])),
    ),
  );
  document.getElementById("table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
  const tabs = data.sections.map(({ title }, i) =>
    element("button", { type: "button", role: "tab", "aria-selected": i === state.section, onclick: () => { state.section = i; drawTable(); } }, title));
  document.getElementById("sections").replaceChildren(...tabs);
}

// ---- one variant ------------------------------------------------------------------------------------------------

function smallTable(titles, lines) {
  if (!lines.length) return element("p", { class: "small" }, "none");
  const head = element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
  const body = lines.map((line) => element("tr", { style: "cursor:default" }, ...line.map((text) => element("td", {}, String(text)))));
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

function block(title, ...content) {
  return element("div", {}, element("h3", {}, title), ...content);
}

function facts(row) {
  const reasons = Object.entries(row.cells).filter(([, content]) => content.why);
  const titles = Object.fromEntries(data.sections.flatMap((section) => section.columns.map((c) => [c.key, c.title])));
  return element(
    "div", {},
    element("p", {}, row.about),
    ...reasons.map(([key, content]) => element("p", { class: "small" }, `${titles[key] || key}: n/a, ${content.why}`)),
  );
}

function wordsTab(row) {
  const errors = row.errors;
  if (!errors) return element("p", {}, "Not recognized.");
  const parts = [];
  if (errors.broken.length)
    parts.push(block("Words that changed beside the baseline", smallTable(["word", "broken", "mended", "of"], errors.broken)));
  parts.push(block("Confusions", smallTable(["reference", "heard", "times"], errors.confusions)));
  parts.push(block("Deletions", smallTable(["word", "times"], errors.deletions)));
  parts.push(block("Insertions", smallTable(["word", "times"], errors.insertions)));
  return element("div", { class: "columns" }, ...parts);
}

function groupsTab(row) {
  if (!row.errors) return element("p", {}, "Not recognized.");
  const titles = (name) => [name, "words", "errors", "WER %"];
  return element(
    "div", { class: "columns" },
    block("By words an utterance", smallTable(titles("words"), row.errors.lengths)),
    block("By speaker", smallTable(titles("speaker"), row.errors.speakers)),
  );
}

function alignment(reference, hypothesis, operations) {
  const [wanted, heard] = [reference.split(" "), hypothesis.split(" ")];
  let [r, h] = [0, 0];
  const parts = [];
  for (const operation of operations) {
    if (operation === "=") { parts.push(wanted[r++]); h++; }
    else if (operation === "S") parts.push(element("span", { class: "s" }, element("del", {}, wanted[r++]), " ", element("ins", {}, heard[h++])));
    else if (operation === "D") parts.push(element("span", { class: "d" }, wanted[r++]));
    else parts.push(element("span", { class: "i" }, `+${heard[h++]}`));
    parts.push(" ");
  }
  return parts;
}

function utterancesTab(row) {
  if (!row.utterances.length) return element("p", {}, "Not recognized.");
  const listing = element("div", {});
  const fill = () => {
    const wanted = state.search.toUpperCase();
    const found = row.utterances.filter((u) => {
      const reference = data.references[u.r];
      return !wanted || `${reference.id} ${reference.speaker} ${reference.text} ${u.h}`.toUpperCase().includes(wanted);
    });
    const items = found.slice(0, state.shown).map((u) => {
      const reference = data.references[u.r];
      const note = u.f ? `failed: ${u.f}` : `${u.e} of ${reference.words} words`;
      return element(
        "div", { class: "utterance" },
        element("div", {}, ...alignment(reference.text, u.h, u.o)),
        element("div", { class: "id" }, `${reference.id}, ${reference.speaker}: ${note}`),
      );
    });
    const more = found.length > state.shown
      ? element("div", { class: "choices" }, element("button", { type: "button", onclick: () => { state.shown += 200; fill(); } }, `${found.length - state.shown} more`))
      : null;
    listing.replaceChildren(...items, ...(more ? [more] : []));
  };
  const search = element("input", {
    type: "search", placeholder: "word, speaker or id", "aria-label": "search utterances", value: state.search,
    oninput: (event) => { state.search = event.target.value; state.shown = 40; fill(); },
  });
  fill();
  const order = element("p", { class: "small" }, data.truncated
    ? "The worst utterances first; of this large test set only those that compression changed or got most wrong."
    : "The worst utterances first. Struck out: the reference. Coloured: what was heard.");
  return element("div", {}, search, order, listing);
}

function layersTab(row) {
  const lines = row.layers;
  return smallTable(["layer", "size", "formats", "parameters", "non-zero", "bytes", "MACs / s", "dense MACs / s"], lines);
}

function passesTab(row) {
  if (!row.history.length) return element("p", {}, "The bundle has no history.");
  return element("div", {}, ...row.history.map((step, i) => {
    const name = step.pass || step.step || step.name || step.stage || "step";
    return block(`${i + 1}. ${name}`, element("pre", {}, JSON.stringify(step, null, 2)));
  }));
}

const tabs = [
  ["Words", wordsTab], ["Utterances", utterancesTab], ["Speakers, lengths", groupsTab], ["Layers", layersTab],
  ["Passes", passesTab],
];

function drawDetail() {
  const place = document.getElementById("detail");
  if (state.variant === null) return place.replaceChildren();
  const row = data.rows[state.variant];
  const choices = tabs.map(([title], i) =>
    element("button", { type: "button", role: "tab", "aria-selected": i === state.tab, onclick: () => { state.tab = i; drawDetail(); } }, title));
  place.replaceChildren(
    element("h2", {}, row.name), facts(row),
    element("div", { class: "choices", role: "tablist" }, ...choices),
    tabs[state.tab][1](row),
  );
}

function select(index, scroll) {
  state.variant = index;
  state.shown = 40;
  state.search = "";
  for (const point of document.querySelectorAll(".point")) point.classList.toggle("chosen", Number(point.dataset.row) === index);
  drawTable();
  drawDetail();
  history.replaceState(null, "", `#${encodeURIComponent(data.rows[index].name)}`);
  if (scroll) document.getElementById("detail").scrollIntoView({ behavior: "smooth", block: "start" });
}

document.getElementById("title").textContent = data.title;
document.getElementById("about").textContent = data.about;
document.getElementById("plots").replaceChildren(...data.plots.map(drawPlot));
document.getElementById("footer").replaceChildren(...data.footer.map((line) => element("p", {}, line)));
drawTable();
const wanted = data.rows.findIndex((row) => row.name === decodeURIComponent(location.hash.slice(1)));
if (wanted >= 0) select(wanted, false);
document.documentElement.dataset.ready = "yes";
