"use strict";

const $ = (id) => document.getElementById(id);
const KEPT = 150; // points of a plot
const SILENT_MS = 1500; // a picture that is not followed by another in this time is no longer the present
const views = new Map(); // camera → {figure, canvas, caption, why, header, at}
const plots = { age: [], infer: [], fps: [] };
let state = null, socket = null, wait = 500, shown = "all", received = 0, refusals = 0, again = 0, answered = 0;

// ---- pictures ----------------------------------------------------------------------------------------------------

function view(camera) {
  if (!views.has(camera)) {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption"), why = document.createElement("div");
    const image = document.createElement("img");
    why.className = "why"; why.hidden = true; image.hidden = true; image.alt = "live picture";
    figure.append(canvas, image, caption, why);
    figure.dataset.camera = camera;
    canvas.onclick = (event) => click(camera, event);
    const later = [...$("pictures").children].find((other) => Number(other.dataset.camera) > camera);
    $("pictures").insertBefore(figure, later || null);
    views.set(camera, { figure, canvas, image, caption, why, header: null, at: 0 });
  }
  return views.get(camera);
}

function connect() {
  clearTimeout(again);
  if (socket) { socket.onclose = null; socket.close(); }
  const ws = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live?camera=${shown}`);
  socket = ws;
  ws.binaryType = "arraybuffer";
  ws.onopen = () => { wait = 500; refusals = 0; plain(false); link(""); refresh(); };
  ws.onmessage = async (event) => {
    try {
      const bytes = new DataView(event.data), length = bytes.getUint32(0);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(event.data, 4, length)));
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(event.data, 4 + length)], { type: "image/jpeg" }));
      const before = views.get(header.camera)?.header;
      if (ws === socket && !(before && before.version > header.version)) draw(header, bitmap);
      bitmap.close();
    } finally {
      if (ws.readyState === WebSocket.OPEN) ws.send("seen");
    }
  };
  ws.onclose = () => {
    if (ws !== socket) return;
    refusals += 1; // a proxy may let pages through and WebSockets not
    plain(refusals > 2 && state !== null);
    link(refusals > 2 && state !== null ? "without WebSocket: pictures only" : "no connection to dk-run; trying again");
    again = setTimeout(connect, wait);
    wait = Math.min(2 * wait, 5000);
  };
}

function plain(on) {
  for (const [camera, its] of [...views].slice(0, 4)) { // browsers open six connections to one server, and some are needed
    if (on === !its.image.hidden) continue;
    its.image.hidden = !on; its.canvas.hidden = on;
    if (on) { its.image.src = `/stream.mjpg?camera=${camera}`; its.caption.textContent = ""; } else its.image.removeAttribute("src");
  }
}

function draw(header, bitmap) {
  const its = view(header.camera);
  if (its.canvas.width !== bitmap.width || its.canvas.height !== bitmap.height) {
    its.canvas.width = bitmap.width; its.canvas.height = bitmap.height;
  }
  its.canvas.getContext("2d").drawImage(bitmap, 0, 0);
  its.header = header; its.at = performance.now();
  received += 1;
  if (!header.repeated) {
    push("age", header.age_ms); push("infer", header.latency_ms.infer);
    if (header.fps) push("fps", header.fps);
    classes();
  }
  age(its);
}

function click(camera, event) { // the smallest box under the pointer; none of them: all are shown again
  const its = views.get(camera), found = its?.header?.detections;
  if (!found) return;
  const place = its.canvas.getBoundingClientRect();
  const x = (event.clientX - place.left) / place.width, y = (event.clientY - place.top) / place.height;
  const size = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  const under = found.filter(({ box: [x1, y1, x2, y2] }) => x1 <= x && x <= x2 && y1 <= y && y <= y2);
  focus(camera, under.sort((a, b) => size(a) - size(b))[0] || null);
}

function focus(camera, found) {
  change({ focus: found && { camera, index: found.index, box: found.box } });
}

function age(its) {
  if (!its.header) return;
  if (played(its.header.camera)) { its.caption.textContent = `frame ${its.header.frame}, ${its.header.time_s.toFixed(2)} s`; return; }
  const since = performance.now() - its.at, total = its.header.age_ms + since;
  const old = its.header.stale || since > SILENT_MS;
  its.figure.classList.toggle("stale", old);
  its.canvas.classList.toggle("grey", old && !its.header.stale); // dk-run has greyed its own
  its.caption.textContent = old ? `STALE ${(total / 1000).toFixed(1)} s` : `${total.toFixed(0)} ms old`;
}

function played(camera) { // of a file: {frames, of, round, ended}; null for a camera
  return state?.cameras.find((its) => its.camera === camera)?.file || null;
}

function progress(file) {
  const far = file.of ? `${file.frames} of ${file.of} frames` : `${file.frames} frames`;
  if (file.ended) return `${far}; it has ended, and the last picture stays`;
  return file.round > 1 ? `${far}, round ${file.round}` : far;
}

setInterval(() => {
  const silent = performance.now() - answered > 2 * 2000 + SILENT_MS;
  for (const its of views.values()) { age(its); its.image.classList.toggle("grey", silent); }
  plot();
}, 250);

function link(words) {
  $("link").textContent = words || "live";
  $("link").className = words ? "bad" : "";
}

// ---- numbers -----------------------------------------------------------------------------------------------------

function classes() {
  const rows = [...views.entries()].sort(([a], [b]) => a - b).flatMap(([camera, its]) => its.header ? [
    ...(views.size > 1 ? [title(`camera ${camera}`)] : []),
    ...(its.header.detections ? boxes(camera, its.header) : its.header.top.map(bar))] : []);
  const held = [...$("top").children].findIndex((row) => row.contains(document.activeElement)); // rows are made anew
  $("top").replaceChildren(...rows);
  if (held >= 0) rows[held]?.querySelector("button")?.focus();
}

function boxes(camera, header) {
  if (!header.detections.length) return [title("no boxes")];
  return header.detections.map((found, number) => {
    const row = bar({ label: found.label, probability: found.score }), name = document.createElement("button");
    const chosen = header.focus === number;
    name.type = "button";
    name.textContent = found.label;
    name.setAttribute("aria-pressed", chosen);
    // a row lives for one frame: the button that is let go is not the one that was pressed, so a pointer's click never comes
    name.onpointerdown = () => focus(camera, chosen ? null : found);
    name.onclick = (event) => { if (event.detail === 0) focus(camera, chosen ? null : found); };
    row.firstChild.replaceWith(name);
    return row;
  });
}

function title(words) {
  const row = document.createElement("li");
  row.className = "title";
  row.textContent = words;
  return row;
}

function bar(score) {
  const row = document.createElement("li"), name = document.createElement("span"), share = document.createElement("span");
  const meter = document.createElement("meter");
  name.textContent = score.label;
  if (score.probability === undefined) { // of a regressor
    share.textContent = score.value === null ? "–" : score.value.toPrecision(4);
    row.append(name, share);
    return row;
  }
  share.textContent = `${(100 * score.probability).toFixed(1)} %`;
  meter.value = score.probability;
  row.append(name, share, meter);
  return row;
}

function push(name, value) {
  plots[name].push(value);
  if (plots[name].length > KEPT) plots[name].shift();
}

function plot() {
  lines("latency", [[plots.age, "#ffb454"], [plots.infer, "#6cb6ff"]], "ms");
  lines("fps", [[plots.fps, "#7bd88f"]], "");
  const last = (name) => plots[name].length ? plots[name][plots[name].length - 1] : 0;
  $("latency-now").textContent = `age ${last("age").toFixed(0)} ms · inference ${last("infer").toFixed(0)} ms`;
  $("fps-now").textContent = last("fps").toFixed(1);
}

function lines(id, series, unit) {
  const canvas = $(id), scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = Number(canvas.getAttribute("height"));
  if (!width) return;
  if (canvas.width !== Math.round(width * scale)) { canvas.width = Math.round(width * scale); canvas.style.height = `${height}px`; }
  const c = canvas.getContext("2d");
  c.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  c.clearRect(0, 0, width, height);
  const top = 1.1 * Math.max(1, ...series.flatMap(([values]) => values));
  c.fillStyle = "#9aa4ad"; c.font = "11px system-ui";
  c.fillText(`${top.toFixed(0)} ${unit}`, 2, 11); c.fillText("0", 2, height - 2);
  for (const [values, colour] of series) {
    c.strokeStyle = colour; c.lineWidth = 1.5; c.beginPath();
    values.forEach((value, i) => {
      const x = (i / (KEPT - 1)) * width, y = height - 2 - (value / top) * (height - 6);
      i ? c.lineTo(x, y) : c.moveTo(x, y);
    });
    c.stroke();
  }
}

// ---- controls ----------------------------------------------------------------------------------------------------

function options(select, pairs, value) {
  const key = JSON.stringify(pairs);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...pairs.map(([id, text]) => new Option(text, id)));
  }
  if (document.activeElement !== select) select.value = value;
}

function apply(found) {
  state = found;
  $("model").textContent = `${found.model} on ${found.device}`;
  const cameras = found.cameras.map((camera) => [String(camera.camera), `${camera.camera}: ${camera.name}`]);
  options($("camera"), cameras.length > 1 ? [["all", "all"], ...cameras] : cameras, cameras.length > 1 ? shown : "0");
  document.body.dataset.task = found.task;
  $("top-title").textContent = { detect: "Boxes", regress: "Outputs" }[found.task] || "Classes";
  const labels = found.labels.flatMap((label, i) => found.task === "regress" ? [[String(i), `${label}: what raises it`],
    [String(-1 - i), `${label}: what lowers it`]] : [[String(i), label]]);
  const ranks = { detect: [["-1", "best box"]], regress: [] }[found.task] || [["-1", "top class"], ["-2", "runner-up"]];
  const chosen = found.classes ? found.classes.map(String).join(",") : "";
  const extra = chosen.includes(",") ? [[chosen, "several"]] : [];
  options($("classes"), [["", "as started"], ...ranks, ...labels, ...extra], chosen);
  options($("colormap"), found.colormaps.map((name) => [name, name]), found.colormap);
  if (document.activeElement !== $("alpha")) $("alpha").value = found.alpha;
  $("alpha-said").textContent = `${Math.round(100 * found.alpha)} %`;
  $("masks-row").hidden = !found.can.masks;
  $("masks").checked = found.masks;
  $("dump").hidden = !found.can.dump;
  $("unfocus").hidden = !found.focus;
  $("paused").setAttribute("aria-pressed", found.paused);
  $("paused").textContent = found.paused ? "Go on" : "Pause";
  $("snapshot").href = `/snapshot.png?camera=${shown === "all" ? 0 : shown}`;
  const rows = found.cameras.map((camera) => {
    const row = document.createElement("li"), told = document.createElement("small");
    row.textContent = `${camera.camera}: ${camera.name}`;
    row.className = camera.live ? "live" : "";
    told.textContent = camera.file ? progress(camera.file) : camera.live ? `${camera.dropped} of ${camera.shots} frames dropped, lost and back ${camera.reopened} times` : camera.reason;
    row.append(told);
    const its = (shown === "all" || shown === String(camera.camera)) ? view(camera.camera) : null;
    if (its) { its.why.textContent = camera.reason; its.why.hidden = camera.live; }
    return row;
  });
  $("health").replaceChildren(...rows);
}

async function refresh() {
  try {
    const answer = await fetch("/state", { signal: AbortSignal.timeout(3000) });
    if (answer.status === 401) location.reload();
    if (answer.ok) { apply(await answer.json()); answered = performance.now(); }
  } catch { state = null; }
}

async function change(wanted) {
  try {
    const answer = await fetch("/control", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(wanted) });
    const found = await answer.json();
    $("said").textContent = answer.ok ? "" : found.error;
    if (answer.ok) apply(found); else refresh();
  } catch { $("said").textContent = "no connection to dk-run"; }
}

$("controls").onsubmit = (event) => event.preventDefault();
$("classes").onchange = (event) => change({ classes: event.target.value ? event.target.value.split(",") : [] });
$("alpha").oninput = (event) => change({ alpha: Number(event.target.value) });
$("colormap").onchange = (event) => change({ colormap: event.target.value });
$("masks").onchange = (event) => change({ masks: event.target.checked });
$("paused").onclick = () => change({ paused: $("paused").getAttribute("aria-pressed") !== "true" });
$("unfocus").onclick = () => change({ focus: null });
$("dump").onclick = async () => {
  const answer = await fetch("/dump", { method: "POST" });
  const found = await answer.json();
  $("said").textContent = found.file ? `kept in ${found.file}` : found.error || "nothing to keep yet";
};
$("camera").onchange = (event) => {
  shown = event.target.value;
  plain(false);
  views.clear();
  $("pictures").replaceChildren();
  connect();
  refresh();
};

refresh();
setInterval(refresh, 2000);
connect();
