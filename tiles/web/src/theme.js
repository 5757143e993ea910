/** Light or dark: as the system says, unless the reader chose. */

const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * Keep the page's theme.
 * @param {HTMLButtonElement} button
 * @param {import("./state.js").Store} store
 * @param {() => void} changed Told after every change.
 */
export function keepTheme(button, store, changed) {
  const now = () => store.state.theme || (dark.matches ? "dark" : "light");
  const draw = () => {
    document.documentElement.dataset.theme = now();
    button.textContent = now() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${now() === "dark" ? "light" : "dark"} colours`);
    changed();
  };
  button.addEventListener("click", () => store.set({ theme: now() === "dark" ? "light" : "dark" }));
  dark.addEventListener("change", draw);
  store.watch(["theme"], draw);
  draw();
}
