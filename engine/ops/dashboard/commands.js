// Commands to the engine. Each one says what it does, and asks, before it is given.

const OUTCOME_SECONDS = 60;

const $ = (id) => document.getElementById(id);

const QUESTIONS = {
  pause: ["Pause", "The engine commits, and applies nothing until it is resumed, also after a restart. The source has to keep its log meanwhile."],
  resume: ["Resume", "The engine goes on at its checkpoint."],
  reload: ["Reload the configuration", "The engine reads the file that it was started with, and goes on by it. A file with a mistake is refused."],
  retry: ["Retry all dead letters", "The rows that the target refused are applied again, in their order. What is still refused stays."],
  discard: ["Discard all dead letters", "The target lacks the changes of all dead letters that are open when the engine executes the command, for good."],
  stop: ["Stop the engine", "The engine commits whole transactions and ends. Nobody can start it from here."],
  backfill: ["Backfill", "The table is read again from the source, and replaces the one on the target when it is complete. Others go on."],
  quarantine: ["Quarantine", "Changes of the table are not applied any more, until it is backfilled. Others go on."],
};

function body(command, table) {
  if (command === "retry" || command === "discard") {
    return { command: "dead_letters", action: command, all: true };
  }
  return table ? { command, tables: [table] } : { command };
}

function inWords({ command, action, tables, place, ids }) {
  const name = command === "dead_letters" ? `dead-letters ${action}` : command;
  return [name, place, ...(tables ?? []), ...(ids ?? [])].filter(Boolean).join(" ");
}

export class Commands {
  #ask;
  #withCode;

  constructor(ask, withCode) {
    this.#ask = ask;
    this.#withCode = withCode;
    for (const button of document.querySelectorAll("#control [data-command]")) {
      button.addEventListener("click", () => this.give(button.dataset.command));
    }
    $("record").addEventListener("toggle", () => $("record").open && this.#list());
  }

  /** Enable what makes sense in this status; null: the engine does not answer. */
  show(status) {
    const possible = {
      pause: status && status.state !== "paused",
      resume: status && status.state === "paused",
      reload: status,
      retry: status && status.dead_letters > 0,
      discard: status && status.dead_letters > 0,
      stop: status,
    };
    for (const button of document.querySelectorAll("#control [data-command]")) {
      button.disabled = !possible[button.dataset.command];
    }
  }

  /** Ask, and give a command if the answer is yes. */
  async give(command, table = "") {
    if (!(await this.#confirmed(command, table))) return;
    this.#say("The command is given …");
    try {
      const response = await this.#ask("commands", {
        method: "POST",
        headers: { "Content-Type": "application/json", "Tailrace-User": "dashboard" },
        body: JSON.stringify(body(command, table)),
      });
      const found = await response.json();
      if (!response.ok) {
        this.#say([found.detail ?? found.error, found.hint].filter(Boolean).join(". "));
        return;
      }
      this.#say(await this.#outcome(found.href, command));
      if ($("record").open) await this.#list();
    } catch (error) {
      this.#say(`The command may not have been given: ${error.message}`);
    }
  }

  #say(text) {
    this.#withCode($("outcome"), text);
  }

  #confirmed(command, table) {
    const [title, text] = QUESTIONS[command];
    $("confirm-title").textContent = table ? `${title} ${table}?` : `${title}?`;
    $("confirm-text").textContent = text;
    $("confirm-yes").textContent = title;
    const dialog = $("confirm");
    dialog.returnValue = "no";
    dialog.showModal();
    return new Promise((done) => {
      dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
    });
  }

  async #outcome(href, command) {
    const deadline = Date.now() + 1000 * OUTCOME_SECONDS;
    while (Date.now() < deadline) {
      try {
        const found = await (await this.#ask(href.slice(1))).json();
        if (found.outcome !== null && found.outcome !== undefined) {
          return found.refused ? `Refused: ${found.outcome}.` : `Done: ${found.outcome}.`;
        }
      } catch (error) {
        if (command === "stop") return "The engine has ended.";
        throw error;
      }
      await new Promise((done) => setTimeout(done, 500));
    }
    return "The engine has not executed the command yet. It stays stored until then.";
  }

  async #list() {
    const response = await this.#ask("commands");
    if (!response.ok) return;
    const rows = (await response.json()).map((it) => {
      const row = document.createElement("tr");
      const outcome = it.outcome === null ? "waits" : it.outcome;
      const shown = [new Date(it.at * 1000).toLocaleString(), it.by, inWords(it.command), it.refused ? `refused: ${outcome}` : outcome];
      for (const text of shown) {
        const cell = document.createElement("td");
        cell.textContent = text;
        row.append(cell);
      }
      return row;
    });
    document.querySelector("#record tbody").replaceChildren(...rows);
  }
}
