/** What else can be shown: further layers of a map, months, colours, opacity, records, basemap. */

import { onlineTiles } from "./basemap.js";
import { fillSelect, h } from "./dom.js";
import { kindOf, kinds, layerFor } from "./kinds.js";
import { MONTHS, sentence } from "./words.js";

/** @type {Record<string, string>} */
const RAMP_NAMES = { ylorbr: "Yellow to brown", ylorrd: "Yellow to red", orrd: "Orange to red", greys: "Greys" };

export class LayersPanel {
  /**
   * @param {HTMLElement} box
   * @param {import("./subject.js").Subject} subject
   * @param {import("./state.js").Store} store
   * @param {string[]} colormaps Names, the default first.
   */
  constructor(box, subject, store, colormaps) {
    this.subject = subject;
    this.store = store;
    this.colormaps = colormaps;
    this.layer = h("select", { id: "layer", onchange: () => this.#toLayer(this.layer.value, this.subject.band?.month ?? null) });
    this.layerRow = h("p", { class: "field", hidden: true }, h("label", { for: "layer" }, "Layer"), this.layer);
    this.month = h("input", { type: "range", id: "month", min: "1", max: "12", step: "1", oninput: () => this.#toMonth() });
    this.monthName = h("output", { for: "month" });
    this.monthRow = h("p", { class: "field", hidden: true }, h("label", { for: "month" }, "Month ", this.monthName), this.month);
    this.colours = h("select", { id: "colormap", onchange: () => store.set({ colormap: this.colours.value }) });
    this.opacity = h("input", {
      type: "range", id: "opacity", min: "0", max: "100", step: "5", oninput: () => store.set({ opacity: this.opacity.value }),
    });
    this.opacityValue = h("output", { for: "opacity" });
    this.basemap = h("select", { id: "basemap", onchange: () => store.set({ basemap: this.basemap.value }, true) });
    this.basemapRow = h("p", { class: "field", hidden: onlineTiles() === null }, h("label", { for: "basemap" }, "Basemap"), this.basemap);
    box.prepend(
      this.layerRow, this.monthRow,
      h("p", { class: "field" }, h("label", { for: "opacity" }, "Opacity ", this.opacityValue), this.opacity),
      h("p", { class: "field" }, h("label", { for: "colormap" }, "Colours"), this.colours),
      this.basemapRow,
    );
    subject.addEventListener("change", () => this.#draw());
    store.watch(["opacity", "colormap", "basemap", "layer"], () => this.#draw());
    this.#draw();
  }

  #draw() {
    const { state } = this.store;
    this.opacity.value = state.opacity;
    this.opacityValue.textContent = `${state.opacity} %`;
    fillSelect(this.colours, this.colormaps.map((name) => [name, RAMP_NAMES[name] ?? sentence(name)]), state.colormap || this.colormaps[0]);
    fillSelect(this.basemap, [["outline", "Outlines (offline)"], ["online", "Online tiles"]], state.basemap);
    const layers = this.subject.info?.layers ?? [];
    const { band } = this.subject;
    const kind = band ? kindOf(band) : "";
    const choices = kinds(layers);
    this.layerRow.hidden = choices.length < 2;
    fillSelect(this.layer, choices.map(([name, words]) => [name, sentence(words)]), kind);
    this.monthRow.hidden = (band?.month ?? null) === null;
    const month = band?.month ?? null;
    this.month.value = String(month ?? 1);
    this.monthName.textContent = month === null ? "(whole year)" : MONTHS[month - 1];
    this.month.setAttribute("aria-valuetext", this.monthName.textContent);
  }

  /** The layer of the month, or of the month nearest to it that has one. */
  #toMonth() {
    const { band } = this.subject;
    if (band) this.#toLayer(kindOf(band), Number(this.month.value));
  }

  /** @param {string} kind @param {number | null} month */
  #toLayer(kind, month) {
    const chosen = layerFor(this.subject.info?.layers ?? [], kind, month);
    if (chosen) this.store.set({ layer: chosen.name }, month === null);
  }
}
