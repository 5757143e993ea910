/** What went wrong, said once, with a button to try again; and a quiet region for what is read out. */

import { byId, h } from "./dom.js";
import { isAbort } from "./api.js";

/**
 * Show an error; a newer one of the same text takes its place.
 * @param {unknown} error
 * @param {() => void} [retry]
 */
export function fail(error, retry) {
  if (isAbort(error)) return;
  const text = error instanceof Error ? error.message : String(error);
  const box = byId("toasts");
  for (const old of [...box.children]) if (old.dataset.text === text) old.remove();
  const toast = h("div", { class: "toast", dataset: { text } }, h("p", {}, text));
  const again = () => {
    toast.remove();
    retry?.();
  };
  if (retry) toast.append(h("button", { type: "button", class: "primary", onclick: again }, "Try again"));
  toast.append(h("button", { type: "button", onclick: () => toast.remove() }, "Dismiss"));
  box.append(toast);
}

/** Take all errors away, as what they told of is gone. */
export function forget() {
  byId("toasts").replaceChildren();
}

/**
 * Have a screen reader say something.
 * @param {string} text
 */
export function say(text) {
  byId("said").textContent = text;
}
