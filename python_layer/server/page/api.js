// The server's API. Addresses are relative, so that the page also works below a proxy's path.

import { eventsOf } from "./sse.js";

const LOST = "The connection to the server was lost. Is it still running?";
const NO_CONNECTION = "The server can't be reached. Is it running?";

/** What the server, or the way to it, has refused. */
export class ServerError extends Error {
  /**
   * @param {string} message - for the user.
   * @param {string} code - as the server's errors have it, or "connection".
   */
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** Speaks to the server. */
export class Api {
  #key;

  /** @param {() => string} key - the API key; empty sends none. */
  constructor(key) {
    this.#key = key;
  }

  /** The name of the model that is served. */
  async model() {
    const response = await this.#fetch("v1/models", { cache: "no-store" });
    return (await response.json()).data[0].id;
  }

  /**
   * The chunks of an answer.
   * @param {object} body - of POST /v1/chat/completions.
   * @param {AbortSignal} signal - leaves; the server then frees the request.
   */
  async *chat(body, signal) {
    const response = await this.#fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    try {
      for await (const data of eventsOf(response.body)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError(chunk.error.message, chunk.error.code);
        yield chunk;
      }
    } catch (error) {
      throw error instanceof TypeError ? new ServerError(LOST, "connection") : error;
    }
    throw new ServerError(LOST, "connection");
  }

  async #fetch(path, options) {
    const key = this.#key();
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      throw error instanceof TypeError ? new ServerError(NO_CONNECTION, "connection") : error;
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `The server answered with status ${response.status}.`;
  const hint = response.status === 401 ? " Give the API key in the settings." : "";
  return new ServerError(message + hint, error?.code ?? `status_${response.status}`);
}
