/** The threshold: a slider with the marks of the model, the area above it, and how it is drawn. */

import { ask } from "./api.js";
import { h } from "./dom.js";
import { STEPS, cutLevel, levelOf, valueOf } from "./lut.js";
import { area, percent, score } from "./words.js";

const SHOW = { all: "All values", cut: "Only above", two: "Two colours" };

export class ThresholdPanel {
  /** @type {number[] | null} */
  #curve = null;
  #curveOf = "";

  /**
   * @param {HTMLElement} box
   * @param {import("./subject.js").Subject} subject
   * @param {import("./state.js").Store} store
   * @param {(error: unknown, retry?: () => void) => void} fail
   */
  constructor(box, subject, store, fail) {
    Object.assign(this, { box, subject, store, fail });
    this.box = box;
    this.subject = subject;
    this.store = store;
    this.fail = fail;
    this.slider = h("input", {
      type: "range", id: "threshold", min: "0", max: String(STEPS), step: "1", "aria-describedby": "threshold-area",
      oninput: () => this.#moved(),
    });
    this.value = h("output", { for: "threshold", id: "threshold-value" });
    this.area = h("p", { id: "threshold-area", class: "figure" });
    this.marks = h("div", { class: "marks", "aria-hidden": "true" });
    this.buttons = h("div", { class: "choices", role: "group", "aria-label": "Thresholds of the model" });
    this.note = h("p", { class: "muted" });
    this.shows = Object.entries(SHOW).map(([show, text]) =>
      h("label", { class: "choice" }, h("input", { type: "radio", name: "show", value: show, onchange: () => store.set({ show }) }), text));
    box.append(
      h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "Draw"), this.shows),
      h("label", { for: "threshold" }, "Threshold ", this.value),
      h("div", { class: "slider" }, this.slider, this.marks),
      this.buttons, this.area, this.note,
    );
    subject.addEventListener("change", () => this.#renew());
    store.watch(["threshold", "show"], () => this.#draw());
  }

  /** The slider was moved: a map of all values would not show it, so it is cut. */
  #moved() {
    const { state } = this.store;
    const value = valueOf(Number(this.slider.value), this.#band);
    this.store.set({ threshold: String(Number(value.toFixed(3))), show: state.show === "all" ? "cut" : state.show });
  }

  get #band() {
    return this.subject.band ?? { low: 0, high: 1 };
  }

  #renew() {
    const { info } = this.subject;
    this.box.hidden = !this.subject.cuttable;
    if (!info || !this.subject.cuttable) return;
    const entries = Object.entries(info.thresholds).filter(([, each]) => each.value !== null);
    this.marks.replaceChildren(...entries.map(([key, each]) => {
      const mark = h("span", { class: "mark", title: each.label, dataset: { key } });
      mark.style.left = `${(100 * levelOf(each.value, this.#band)) / STEPS}%`;
      return mark;
    }));
    this.buttons.replaceChildren(...entries.map(([key, each]) =>
      h("button", { type: "button", dataset: { key }, "aria-pressed": "false", title: each.explanation, onclick: () => this.#choose(key) },
        h("span", {}, SHORT[key] ?? each.label), h("small", {}, score(each.value)))));
    this.#draw();
    this.#measure();
  }

  /** @param {string} key */
  #choose(key) {
    const { state } = this.store;
    this.store.set({ threshold: key, show: state.show === "all" ? "cut" : state.show }, true);
  }

  #draw() {
    const { info } = this.subject;
    if (!info || !this.subject.cuttable) return;
    const { threshold, show } = this.store.state;
    const value = this.subject.threshold(threshold);
    this.slider.value = String(levelOf(value, this.#band));
    this.slider.setAttribute("aria-valuetext", score(value));
    this.value.textContent = score(value);
    const chosen = Number.isNaN(Number.parseFloat(threshold)) ? threshold || info.default_threshold : null;
    for (const button of this.buttons.children) {
      button.setAttribute("aria-pressed", String(button.dataset.key === chosen));
    }
    for (const label of this.shows) label.firstChild.checked = label.firstChild.value === show;
    this.note.textContent = chosen ? info.thresholds[chosen]?.explanation ?? "" : "";
    const all = this.#curve?.[0];
    const above = (chosen && info.thresholds[chosen]?.area_km2) ?? this.#curve?.[cutLevel(value, this.#band)];
    this.area.textContent = above === undefined || !all
      ? "Area above: …"
      : `Area above: ${area(above)}, ${percent(above / all)} of the area with data`;
  }

  /** Ask for the area above each level, which comes once for a map. */
  async #measure() {
    const { subject } = this;
    const of = `${subject.known.id} ${subject.known.version}`;
    if (of === this.#curveOf) return;
    this.#curve = null;
    this.#curveOf = of;
    try {
      const stats = await ask(subject.path("stats"), subject.query, { slot: "stats" });
      this.#curve = stats.curve;
      this.#draw();
    } catch (error) {
      this.#curveOf = "";
      this.fail(error, () => this.#measure());
    }
  }
}

/** @type {Record<string, string>} */
export const SHORT = { mtp: "MTP", p10: "P10", lpt5: "LPT 5", maxsss: "MaxSSS" };
