// The dashboard of a running engine. It reads /events (server-sent events over fetch, because
// EventSource cannot send a token) and /history, and redraws what has changed.
import { Charts } from "./charts.js";
import { Commands } from "./commands.js";
import { $, ask, withCode } from "./shared.js";
import { Tables } from "./tables.js";

const RETRY_SECONDS = [1, 2, 5, 10];
const SILENT_SECONDS = 5;

/** The events of a stream, one by one: [name, data]. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").map((line) => {
        const colon = line.indexOf(": ");
        return [line.slice(0, colon), line.slice(colon + 2)];
      }));
      yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  if (seconds < 5970) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; count >= 1000 && unit < units.length - 1; unit += 1) count /= 1000;
  return `${count.toFixed(unit && count < 100 ? 1 : 0)} ${units[unit]}`;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const number = (value) => (value === null || value === undefined ? "–" : whole.format(value));

function showFigures(status) {
  const rate = status.throughput;
  const figures = [
    ["lag", duration(status.lag_seconds)],
    ["log to apply", bytes(status.lag_bytes)],
    ["rows/s", number(rate && rate.rows)],
    ["transactions/s", number(rate && rate.transactions)],
    ["bytes/s", rate ? bytes(rate.bytes) : "–"],
    ["queue", bytes(status.queued_bytes)],
    ["last commit", status.checkpoint_age_seconds === null ? "–" : `${duration(status.checkpoint_age_seconds)} ago`],
    ["log is kept for", duration(status.log_kept_seconds)],
    ["reconnects", number(status.reconnects)],
    ["rows applied", number(status.rows)],
  ];
  $("figures").replaceChildren(...figures.map(([name, value]) => {
    const box = document.createElement("div");
    const term = document.createElement("dt");
    const shown = document.createElement("dd");
    term.textContent = name;
    shown.textContent = value;
    box.append(term, shown);
    return box;
  }));
}

function bar(name, share, text) {
  const row = document.createElement("div");
  row.className = "bar";
  const label = document.createElement("span");
  label.textContent = name;
  const meter = document.createElement("progress");
  meter.max = 1;
  meter.value = share;
  meter.setAttribute("aria-label", name);
  const value = document.createElement("span");
  value.className = "number";
  value.textContent = text;
  row.append(label, meter, value);
  return row;
}

function showStages(stages) {
  $("stages").replaceChildren(...stages.map((it) =>
    bar(it.stage, it.share ?? 0, it.share === null ? "–" : `${Math.round(100 * it.share)} %`)));
}

function showErrors(errors) {
  $("errors-section").hidden = errors.length === 0;
  $("errors").replaceChildren(...errors.map((it) => {
    const item = document.createElement("li");
    const when = document.createElement("time");
    when.dateTime = new Date(it.at * 1000).toISOString();
    when.textContent = new Date(it.at * 1000).toLocaleString();
    const what = document.createElement("div");
    const times = it.count > 1 ? ` (${it.count} times)` : "";
    what.textContent = [it.table, it.message].filter(Boolean).join(": ") + times;
    const remedy = document.createElement("div");
    withCode(remedy, it.remedy);
    item.append(when, what, remedy);
    return item;
  }));
}

function showStatus({ headline, status, states }) {
  document.body.dataset.level = headline.level;
  document.title = `${headline.text} – ${status.pipeline}`;
  $("pipeline").textContent = status.pipeline;
  if ($("headline").textContent !== headline.text) $("headline").textContent = headline.text;
  withCode($("remedy"), headline.remedy);
  $("remedy").hidden = headline.remedy === "";
  $("states").textContent = Object.entries(states).map(([state, count]) => `${number(count)} ${state}`).join(", ");
  showFigures(status);
  showStages(status.stages);
  showErrors(status.errors);
  commands.show(status);
}

function showBackfills() {
  const open = tables.backfills();
  $("backfills-section").hidden = open.length === 0;
  $("backfills").replaceChildren(...open.slice(0, 20).map((it) => {
    const total = Math.max(it.rows, it.estimate);
    const part = total ? Math.min(0.99, it.rows / total) : 0;
    return bar(it.table, part, `${number(it.rows)} of about ${number(total)}`);
  }));
}

const charts = new Charts($("lag-chart"), $("rate-chart"), $("ranges"), ask);
const commands = new Commands(ask, withCode);
const tables = new Tables(commands, number);
let lastEvent = null;

/** What the page says when the engine does not answer. */
function showSilence(reason) {
  document.body.dataset.level = "error";
  const since = lastEvent ? ` since ${lastEvent.toLocaleTimeString()}` : "";
  $("headline").textContent = `No answer from the engine${since}.`;
  withCode($("remedy"), `The reason: ${reason}. If the engine has ended, \`tailrace run CONFIG\` starts it again, and its log says why. This page goes on by itself.`);
  $("remedy").hidden = false;
  $("connection").textContent = "not connected";
  commands.show(null);
}

/** Show the events of one connection until it ends, which is an error. */
async function follow(signal) {
  const zone = encodeURIComponent(Intl.DateTimeFormat().resolvedOptions().timeZone ?? "");
  const response = await ask(`events?zone=${zone}`, { signal });
  if (!response.ok) throw new Error((await response.json()).detail ?? response.statusText);
  const stream = events(response);
  for (;;) {
    const silence = new Promise((_, fail) => {
      setTimeout(() => fail(new Error("it is silent")), 1000 * SILENT_SECONDS);
    });
    const { value, done } = await Promise.race([stream.next(), silence]);
    if (done) throw new Error("the connection was closed");
    lastEvent = new Date();
    failures = 0;
    $("connection").textContent = "live";
    const [name, data] = value;
    if (name === "status") showStatus(data);
    if (name === "tables") {
      tables.update(data);
      showBackfills();
    }
  }
}

let failures = 0;

async function main() {
  charts.start();
  for (;;) {
    const connection = new AbortController();
    try {
      await follow(connection.signal);
    } catch (error) {
      showSilence(error.message);
    } finally {
      connection.abort();
    }
    const wait = RETRY_SECONDS[Math.min(failures, RETRY_SECONDS.length - 1)];
    failures += 1;
    await new Promise((done) => setTimeout(done, 1000 * wait));
  }
}

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, dialog *")) return;
  if (event.key === "/") {
    event.preventDefault();
    $("search").focus();
  }
});

main();
