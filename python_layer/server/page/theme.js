// Light or dark: as the system has it, or as chosen. Loaded before the page is painted.

import { browserStorage } from "./store.js";

const KEY = "mili.theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const storage = browserStorage("localStorage");

/** What is chosen: system, light or dark. */
export function theme() {
  const kept = storage.getItem(KEY);
  return Object.hasOwn(NEXT, kept) ? kept : "system";
}

/** Goes on to the next choice. */
export function switchTheme() {
  storage.setItem(KEY, NEXT[theme()]);
  show();
}

function show() {
  document.documentElement.dataset.theme = theme();
}

show();
