// What the pages of an engine and of a supervisor share: requests with the token, and text.
const TOKEN = "tailrace-token";

export const $ = (id) => document.getElementById(id);

/** A fetch with the token of this tab. It asks for one when the API wants one. */
export async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.status !== 401) return response;
    sessionStorage.removeItem(TOKEN);
    await login();
  }
}

let loggingIn = null;

/** The token, from its dialog; several requests share one dialog. */
function login() {
  loggingIn ??= new Promise((done) => {
    $("login").addEventListener("close", () => {
      sessionStorage.setItem(TOKEN, $("token").value.trim());
      $("token").value = "";
      loggingIn = null;
      done();
    }, { once: true });
    $("login").showModal();
  });
  return loggingIn;
}

/** Text with `command lines` as code. */
export function withCode(element, text) {
  element.replaceChildren(...text.split("`").map((part, number) => {
    if (number % 2 === 0) return document.createTextNode(part);
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  }));
}
