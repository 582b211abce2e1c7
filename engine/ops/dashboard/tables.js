// The grid of tables: sorted, searched, a page of them at a time, so that 10,000 cost no more than 50.

const PAGE = 50;
const FINISHED = ["catching_up", "live", "quarantined", "excluded"];
const URGENT = ["quarantined", "backfilling", "pending", "catching_up", "live"];

const MINUTE = 60;

/** The last comparison: when it began if all was equal, how many rows differ, or that it is open. */
function proven(proof, number) {
  if (!proof) return "–";
  if (proof.outcome === "different") return `${number(proof.differences)} differ`;
  if (proof.outcome !== "equal") return "open";
  const minutes = Math.floor((Date.now() / 1000 - proof.started_at) / MINUTE);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  return minutes < 48 * 60 ? `${Math.floor(minutes / 60)} h ago` : `${Math.floor(minutes / 1440)} d ago`;
}

/** Tables that differ are before those without a proof, and those before the oldest proof. */
function provenOrder(proof) {
  if (!proof) return 0;
  return proof.outcome === "different" ? -1 : proof.equal_at || 0;
}

const $ = (id) => document.getElementById(id);

export class Tables {
  #tables = new Map();
  #commands;
  #number;
  #sort = "state";
  #down = false;
  #page = 0;

  constructor(commands, number) {
    this.#commands = commands;
    this.#number = number;
    setInterval(() => this.#draw(), MINUTE * 1000);
    $("search").addEventListener("input", () => this.#turn(0));
    $("previous").addEventListener("click", () => this.#turn(this.#page - 1));
    $("next").addEventListener("click", () => this.#turn(this.#page + 1));
    for (const button of document.querySelectorAll("#tables [data-sort]")) {
      button.addEventListener("click", () => {
        const same = this.#sort === button.dataset.sort;
        this.#down = same ? !this.#down : !["table", "state", "proof"].includes(button.dataset.sort);
        this.#sort = button.dataset.sort;
        this.#turn(0);
      });
    }
  }

  /** Take over the tables that have changed, and those that are gone. */
  update({ changed, gone }) {
    for (const table of changed) this.#tables.set(table.table, table);
    for (const name of gone) this.#tables.delete(name);
    this.#draw();
  }

  /** The tables whose backfill goes on, those in progress first. */
  backfills() {
    const open = [...this.#tables.values()].filter((it) => !FINISHED.includes(it.state));
    return open.sort((a, b) => b.rows - a.rows || a.table.localeCompare(b.table));
  }

  #turn(page) {
    this.#page = page;
    this.#draw();
  }

  #found() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [...this.#tables.values()].filter((it) => {
      const text = `${it.table} ${it.state} ${it.reason}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const sign = this.#down ? -1 : 1;
    const value = (it) => {
      if (this.#sort === "state") return URGENT.indexOf(it.state);
      return this.#sort === "proof" ? provenOrder(it.proof) : it[this.#sort];
    };
    return found.sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      const order = typeof left === "string" ? left.localeCompare(right) : left - right;
      return sign * order || a.table.localeCompare(b.table);
    });
  }

  #draw() {
    const found = this.#found();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    this.#page = Math.min(Math.max(this.#page, 0), pages - 1);
    const first = this.#page * PAGE;
    const shown = found.slice(first, first + PAGE);
    const focused = document.activeElement?.dataset?.row;
    document.querySelector("#tables tbody").replaceChildren(...shown.map((it) => this.#row(it)));
    if (focused) document.querySelector(`[data-row="${CSS.escape(focused)}"]`)?.focus();
    $("page").textContent = found.length
      ? `${this.#number(first + 1)} to ${this.#number(first + shown.length)} of ${this.#number(found.length)}`
      : "no table";
    $("previous").disabled = this.#page === 0;
    $("next").disabled = this.#page === pages - 1;
    $("pages").hidden = found.length <= PAGE && this.#tables.size > 0;
    for (const button of document.querySelectorAll("#tables [data-sort]")) {
      const order = this.#down ? "descending" : "ascending";
      button.closest("th").setAttribute("aria-sort", button.dataset.sort === this.#sort ? order : "none");
    }
  }

  #row(table) {
    const row = document.createElement("tr");
    const cell = (text, name = "") => {
      const made = document.createElement("td");
      made.className = name;
      made.textContent = text;
      row.append(made);
      return made;
    };
    cell(table.table);
    const state = cell(table.state.replace("_", " "), table.state);
    if (table.reason) {
      const reason = document.createElement("small");
      reason.textContent = table.reason;
      state.append(reason);
    }
    for (const name of ["applied", "rows", "drift", "dead_letters"]) {
      cell(this.#number(table[name]), "number");
    }
    const different = table.proof?.outcome === "different";
    cell(proven(table.proof, this.#number), different ? "different" : "");
    const actions = cell("", "actions");
    for (const command of ["backfill", "quarantine"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = command;
      button.dataset.row = `${command} ${table.table}`;
      button.disabled = command === "quarantine" && table.state === "quarantined";
      button.setAttribute("aria-label", `${command} ${table.table}`);
      button.addEventListener("click", () => this.#commands.give(command, table.table));
      actions.append(button, " ");
    }
    return row;
  }
}
