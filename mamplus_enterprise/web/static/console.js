// SPDX-License-Identifier: Apache-2.0
// Refreshes the page when something changed. Everything works without it.
"use strict";

const EVERY_MS = 2000;

function busy() {
  // Never under somebody's fingers: a reason that is being written stays.
  const fields = document.querySelectorAll("#page input[name=reason]");
  return document.hidden || [...fields].some((field) => field.value || field === document.activeElement);
}

function opened(page) {
  return [...page.querySelectorAll("details[open]")].map((one) => one.dataset.key);
}

async function refresh() {
  const old = document.getElementById("page");
  const asked = new URLSearchParams(location.search);
  asked.delete("done");
  const here = location.pathname === "/" ? "" : location.pathname;
  const changes = await fetch(`${here}/changes?${asked}`);
  if (changes.status === 401) return location.assign("/login");
  if (!changes.ok || (await changes.json()).mark === old.dataset.mark) return;
  const answer = await fetch(`${here || "/"}?${asked}`);
  if (!answer.ok || busy()) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const page = fresh.getElementById("page");
  if (!page) return;
  const keep = opened(old);
  for (const one of page.querySelectorAll("details")) one.open = keep.includes(one.dataset.key);
  old.replaceWith(document.adoptNode(page));
  document.title = fresh.title;
}

async function loop() {
  try {
    if (!busy()) await refresh();
  } catch {
    // The server is away; the page stays and asks again.
  }
  setTimeout(loop, EVERY_MS);
}

setTimeout(loop, EVERY_MS);
