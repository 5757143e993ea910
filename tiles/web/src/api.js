/** Requests to the server: addresses beside the page, errors in plain words, stale requests given up. */

/** What the server, or the way to it, refused. */
export class ApiError extends Error {
  /**
   * @param {string} message One or more sentences for the reader.
   * @param {number} status 0 where no answer came.
   */
  constructor(message, status) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

/** @param {unknown} error */
export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

const base = new URL(".", document.baseURI);
/** @type {Map<string, AbortController>} */
const running = new Map();

/**
 * The address of a path of the server, wherever a proxy has put it.
 * @param {string} path Without a slash at the start.
 * @param {Record<string, string | number | null | undefined>} [query] Empty values are left out.
 */
export function address(path, query = {}) {
  const url = new URL(path, base);
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, String(value));
  }
  // Templates of tiles keep their braces.
  return url.href.replaceAll("%7B", "{").replaceAll("%7D", "}");
}

/**
 * Ask the server for JSON.
 * @param {string} path
 * @param {Record<string, string | number | null | undefined>} [query]
 * @param {{slot?: string, body?: unknown}} [options] A newer request in the same slot gives up the older one.
 * @returns {Promise<any>}
 */
export async function ask(path, query = {}, { slot, body } = {}) {
  const controller = new AbortController();
  if (slot) {
    running.get(slot)?.abort();
    running.set(slot, controller);
  }
  const init = body === undefined
    ? { signal: controller.signal }
    : {
        signal: controller.signal,
        method: "POST",
        body: JSON.stringify(body),
        headers: { "Content-Type": "application/json" },
      };
  const response = await answer(address(path, query), init);
  return response.json();
}

/**
 * Fetch, with every failure but an abort as an ApiError.
 * @param {string} url
 * @param {RequestInit} [init]
 */
export async function answer(url, init = {}) {
  let response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError("The server does not answer. Check the connection, then try again.", 0);
  }
  if (!response.ok) throw new ApiError(await complaint(response), response.status);
  return response;
}

/** @param {Response} response */
async function complaint(response) {
  const known = await response.json().catch(() => null);
  if (known && typeof known.what === "string") {
    return [known.what, known.found].filter(Boolean).join(": ") + `. ${known.change ?? ""}`;
  }
  if (known && typeof known.detail === "string") return known.detail;
  if (response.status === 503) return "The server is busy or cannot read this map at the moment.";
  return `The server answered with status ${response.status}.`;
}
