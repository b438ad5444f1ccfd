// Keys of the viewer: j and k through rows, turns and hits, n and p through pages, / to search, 1 to 4 on a ballot,
// ? for help. Everything they do can be done without them, and who speaks to a computer, or strikes keys by chance, can
// switch them off: in the list of keys, for every page of this browser.
"use strict";

const help = document.getElementById("help");
const helpButton = document.getElementById("help-button");
const working = document.getElementById("keys-work");
let kept = null;  // where a browser keeps nothing, the setting is the page's
const work = () => {
  try {
    return localStorage.getItem("keys") !== "off";
  } catch {
    return kept !== "off";
  }
};
const show = () => {
  working.checked = work();
  document.body.classList.toggle("keyless", !working.checked);
  helpButton.textContent = working.checked ? "Keys: press ?" : "Keys: off";
};
working.addEventListener("change", () => {
  kept = working.checked ? "on" : "off";
  try {
    localStorage.setItem("keys", kept);
  } catch { /* it holds until the page is left */ }
  show();
});
addEventListener("storage", show);
show();
helpButton.hidden = false;
helpButton.addEventListener("click", () => help.showModal());

const items = () => [...document.querySelectorAll("[data-item]")];
const target = (item) => item.querySelector("a[href]:not(.to)") && !item.matches("[tabindex]")
  ? item.querySelector("a[href]") : item;

function step(by) {
  const all = items();
  const at = all.findIndex((item) => item.contains(document.activeElement));
  const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1);
  if (all.length) {
    target(all[next]).focus();
    all[next].scrollIntoView({ block: "nearest" });
  }
}

function follow(rel) {
  const link = document.querySelector(`main a[rel="${rel}"]`);
  if (link) link.click();
}

function choose(number) {
  const choice = document.getElementById(`choice-${number}`);
  if (choice) {
    choice.checked = true;
    choice.focus();
  }
}

const keys = {
  j: () => step(1),
  k: () => step(-1),
  n: () => follow("next"),
  p: () => follow("prev"),
  "/": () => document.getElementById("q").select(),
  "?": () => help.showModal(),
};
for (const number of [1, 2, 3, 4]) keys[number] = () => choose(number);

document.addEventListener("keydown", (event) => {
  const writes = event.target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
  if (writes || help.open || event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
  if (!work()) return;
  event.preventDefault();
  keys[event.key]();
});

// A form that was sent once is not sent again.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

// When a part of the page is replaced, what a reader has opened stays open, what is scrolled stays there, what is seen
// stays where it is seen, though more may stand above it, and what has the focus keeps it. A part in which text is
// selected is not replaced before the selection is gone.
let opened = [];
let scrolled = [];
let seen = [];
let down = 0;
const above = (each) => each.getBoundingClientRect().top;
let focused = "";
document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target;
  const selection = getSelection();
  if (!selection.isCollapsed && selection.containsNode(part, true)) event.detail.shouldSwap = false;
  focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  opened = [...part.querySelectorAll("details[open][id]")].map((each) => each.id);
  scrolled = [...part.querySelectorAll(".scroll[id]")].map((each) => [each.id, each.scrollLeft]);
  seen = [...part.querySelectorAll("[id]")].filter((each) => each.getClientRects().length && above(each) >= 0);
  seen = seen.map((each) => [each.id, above(each)]);
  down = scrollY;
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  for (const [id, left] of scrolled) document.getElementById(id)?.scrollTo(left, 0);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });  // it may stand in what was shut
  const [id, was] = seen.find(([id]) => document.getElementById(id)) ?? [];
  const to = down && id ? scrollY + above(document.getElementById(id)) - was : down;
  if (Math.abs(to - scrollY) >= 1) scrollTo(scrollX, to);
});

// Who is not answered is told so in the status, which would else stand there as if it were true.
const unanswered = new Map();
document.addEventListener("htmx:afterRequest", (event) => {
  const { target, successful, xhr } = event.detail;
  if (successful) unanswered.delete(target.id);
  else unanswered.set(target.id, xhr.status ? `the viewer answered ${xhr.status}` : "no answer from the viewer");
  document.getElementById("unanswered")?.remove();
  if (!unanswered.size) return;
  const note = document.createElement("strong");
  note.id = "unanswered";
  note.className = "error";
  note.textContent = [...new Set(unanswered.values())].join(", ");
  document.querySelector("#status .status")?.append(note);
});
