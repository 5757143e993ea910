/** A search box with a list below it, after the ARIA pattern "editable combobox with list autocomplete". */

import { isAbort } from "./api.js";
import { h } from "./dom.js";

const PAUSE_MS = 120; // between the last key and the request

/**
 * @template T
 * @typedef {object} Source
 * @property {(text: string) => Promise<T[]>} find Matches, the best first; every one for "".
 * @property {(item: T) => Node} show What stands in the list.
 * @property {(item: T) => string} label What stands in the box once it is chosen.
 * @property {(item: T) => void} choose
 * @property {(error: unknown) => void} fail
 */

/** @template T */
export class Combobox {
  /** @type {T[]} */
  #items = [];
  #active = -1;
  #label = "";
  #timer = 0;

  /**
   * @param {HTMLInputElement} input
   * @param {HTMLElement} list An empty `ul`.
   * @param {HTMLElement} note A status region, for "nothing found".
   * @param {Source<T>} source
   */
  constructor(input, list, note, source) {
    this.input = input;
    this.list = list;
    this.note = note;
    this.source = source;
    for (const [name, value] of Object.entries({
      role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": list.id,
      autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    })) input.setAttribute(name, value);
    list.setAttribute("role", "listbox");
    list.hidden = true;
    input.addEventListener("input", () => this.#later());
    input.addEventListener("keydown", (event) => this.#key(event));
    input.addEventListener("click", () => !this.open && this.#search(""));
    input.addEventListener("focus", () => input.select());
    input.addEventListener("blur", () => this.close());
    // A press on the list must not take the focus off the box, or the list would be gone before the click.
    list.addEventListener("pointerdown", (event) => event.preventDefault());
  }

  get open() {
    return !this.list.hidden;
  }

  /** @param {string} text What the box shows while nobody types. */
  set label(text) {
    this.#label = text;
    if (document.activeElement !== this.input || !this.open) this.input.value = text;
  }

  close() {
    clearTimeout(this.#timer);
    this.#show([]);
    this.note.textContent = "";
    this.input.value = this.#label;
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => this.#search(this.input.value.trim()), PAUSE_MS);
  }

  /** @param {string} text */
  async #search(text) {
    try {
      const items = await this.source.find(text);
      if (document.activeElement !== this.input) return;
      this.#show(items);
      this.note.textContent = items.length ? `${items.length} found.` : `Nothing found for “${text}”.`;
      this.note.classList.toggle("quiet", items.length > 0);
    } catch (error) {
      if (!isAbort(error)) this.source.fail(error);
    }
  }

  /** @param {T[]} items */
  #show(items) {
    this.#items = items;
    this.list.replaceChildren(
      ...items.map((item, at) =>
        h(
          "li",
          { role: "option", id: `${this.list.id}-${at}`, "aria-selected": "false", onclick: () => this.#choose(at) },
          this.source.show(item),
        ),
      ),
    );
    this.list.hidden = items.length === 0;
    this.input.setAttribute("aria-expanded", String(items.length > 0));
    this.#mark(-1);
  }

  /** @param {number} at */
  #mark(at) {
    this.list.children[this.#active]?.setAttribute("aria-selected", "false");
    this.#active = at;
    const option = this.list.children[at];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
    else this.input.removeAttribute("aria-activedescendant");
  }

  /** @param {number} at */
  #choose(at) {
    const item = this.#items[at];
    if (item === undefined) return;
    this.#label = this.source.label(item);
    this.close();
    this.source.choose(item);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const last = this.#items.length - 1;
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowDown: () => (this.open ? this.#mark(this.#active >= last ? 0 : this.#active + 1) : this.#search(this.#asked())),
      ArrowUp: () => (this.open ? this.#mark(this.#active <= 0 ? last : this.#active - 1) : this.#search(this.#asked())),
      Home: () => this.#mark(0),
      End: () => this.#mark(last),
      Enter: () => this.#choose(Math.max(0, this.#active)),
      Escape: () => this.close(),
    };
    const moves = event.key in keys && (this.open || event.key.startsWith("Arrow") || event.key === "Escape");
    if (!moves) return;
    event.preventDefault();
    keys[event.key]();
  }

  /** What has been typed; nothing if the box still shows what was chosen. */
  #asked() {
    return this.input.value === this.#label ? "" : this.input.value.trim();
  }
}
