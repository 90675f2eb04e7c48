// What the user sets: checked here, kept in the browser, and turned into fields of a request.

const KEY = "mili.settings";
const API_KEY = "mili.api-key";

/** As it is before anything is set: texts, as they are in the form. Empty leaves the choice to the server. */
export const DEFAULTS = Object.freeze({
  system: "",
  temperature: "",
  top_p: "",
  top_k: "",
  max_tokens: "",
  seed: "",
  thinking: "default",
  tools: "",
});

const NUMBERS = {
  temperature: { is: (x) => x >= 0 && x <= 2, wanted: "a number from 0 (always the likeliest token) to 2" },
  top_p: { is: (x) => x > 0 && x <= 1, wanted: "a number above 0 and up to 1 (all tokens)" },
  top_k: { is: (x) => Number.isSafeInteger(x) && x >= 0, wanted: "a whole number; 0 is all tokens" },
  max_tokens: { is: (x) => Number.isSafeInteger(x) && x >= 1, wanted: "a whole number from 1" },
  seed: { is: (x) => Number.isSafeInteger(x), wanted: "a whole number" },
};

/**
 * Checks settings.
 * @returns {Object<string, string>} what is wrong, by the field's name.
 */
export function problems(values) {
  const found = {};
  for (const [name, { is, wanted }] of Object.entries(NUMBERS)) {
    const text = values[name].trim();
    if (text !== "" && !is(Number(text))) found[name] = `Must be ${wanted}.`;
  }
  const tools = toolProblem(values.tools);
  if (tools) found.tools = tools;
  return found;
}

/** The fields of a request that the settings make. */
export function requestFields(values) {
  const fields = {};
  for (const name of Object.keys(NUMBERS)) {
    if (values[name].trim() !== "") fields[name] = Number(values[name]);
  }
  if (values.thinking !== "default") fields.chat_template_kwargs = { enable_thinking: values.thinking === "on" };
  const tools = values.tools.trim() ? JSON.parse(values.tools) : [];
  if (tools.length) fields.tools = tools;
  return fields;
}

/** Settings as they were kept. */
export class Settings {
  #local;
  #session;

  /**
   * @param {Storage} local - outlives the browser's window.
   * @param {Storage} session - does not: the API key's place unless it is to be remembered.
   */
  constructor(local, session) {
    this.#local = local;
    this.#session = session;
  }

  /** All but the API key. */
  get values() {
    try {
      const kept = JSON.parse(this.#local.getItem(KEY)) ?? {};
      const known = Object.entries(kept).filter(([name, value]) => Object.hasOwn(DEFAULTS, name) && typeof value === "string");
      const values = { ...DEFAULTS, ...Object.fromEntries(known) };
      return Object.keys(problems(values)).length ? { ...DEFAULTS } : values;
    } catch {
      return { ...DEFAULTS };
    }
  }

  set values(values) {
    this.#local.setItem(KEY, JSON.stringify(values));
  }

  /** The API key, or an empty text. */
  get apiKey() {
    return this.#session.getItem(API_KEY) ?? this.#local.getItem(API_KEY) ?? "";
  }

  /** Whether the key outlives the window. */
  get remembersKey() {
    return this.#local.getItem(API_KEY) !== null;
  }

  /** Keeps the key, for this window or for good. */
  setApiKey(key, remember) {
    for (const storage of [this.#session, this.#local]) storage.removeItem(API_KEY);
    if (key) (remember ? this.#local : this.#session).setItem(API_KEY, key);
  }
}

function toolProblem(text) {
  if (text.trim() === "") return "";
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    return `This is no JSON: ${error.message}`;
  }
  if (!Array.isArray(tools)) return "Must be a list: [ … ] around the tools.";
  const names = new Set();
  for (const [index, tool] of tools.entries()) {
    const problem = oneToolProblem(tool, names);
    if (problem) return `Tool ${index + 1}: ${problem}`;
    names.add(tool.function.name);
  }
  return "";
}

function oneToolProblem(tool, names) {
  if (tool?.type !== "function") return 'needs "type": "function".';
  const { function: called } = tool;
  if (called === null || typeof called !== "object") return 'needs "function": {"name": …}.';
  if (!/^[a-zA-Z0-9_-]{1,64}$/.test(called.name)) return "its name must be 1 to 64 letters, digits, _ or -.";
  if (names.has(called.name)) return `there is another one named ${called.name}.`;
  const schema = called.parameters ?? {};
  return typeof schema !== "object" || Array.isArray(schema) ? 'its "parameters" must be a JSON schema: { … }.' : "";
}
