// The index of a supervisor: each pipeline with its state in words, and a link to its dashboard.
import { $, ask, withCode } from "./shared.js";

const POLL_SECONDS = 2;

/** One pipeline as a card. */
function card(it) {
  const section = document.createElement("section");
  section.className = "pipeline";
  section.dataset.level = it.headline.level;
  const title = document.createElement("h2");
  const link = document.createElement("a");
  link.href = `pipelines/${encodeURIComponent(it.pipeline)}/`;
  link.textContent = it.pipeline;
  title.append(link);
  const text = document.createElement("p");
  text.className = "text";
  text.textContent = it.headline.text;
  const remedy = document.createElement("p");
  withCode(remedy, it.headline.remedy);
  remedy.hidden = it.headline.remedy === "";
  const note = document.createElement("p");
  note.className = "note";
  const restarts = it.restarts ? `, started again ${it.restarts} times` : "";
  note.textContent = `${it.file}: ${it.process}${restarts}`;
  section.append(title, text, remedy, note);
  return section;
}

async function main() {
  for (;;) {
    try {
      const response = await ask("status");
      const found = await response.json();
      if (!response.ok) throw new Error(found.detail ?? response.statusText);
      const focused = document.activeElement?.getAttribute("href");
      $("pipelines").replaceChildren(...found.pipelines.map(card));
      if (focused) document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
      $("connection").textContent = "live";
    } catch (error) {
      $("connection").textContent = `not connected: ${error.message}`;
    }
    await new Promise((done) => setTimeout(done, 1000 * POLL_SECONDS));
  }
}

main();
