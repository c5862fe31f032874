"use strict";
const { lines, steps } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const nav = byId("steps"), code = byId("code"), panel = byId("value"), search = byId("search");
let step = steps.length - 1, selected = null, hits = [], hit = -1;

const count = (text, mark) => text.split(mark).length - 1;
steps.forEach((s, index) => {
  const plus = count(s.marks, "+"), minus = count(s.marks, "-");
  const button = document.createElement("button");
  const title = document.createElement("b"), note = document.createElement("small");
  title.textContent = s.name;
  note.innerHTML = `${s.operations} operations` +
    (plus || minus ? ` <span class="plus">+${plus}</span> <span class="minus">−${minus}</span>` : "");
  button.className = plus || minus || !index ? "" : "same";
  button.append(title, note);
  button.onclick = () => show(index);
  nav.append(button);
});

/* A value is known by its function and its name: names are unique in a function. */
function show(index) {
  step = index;
  [...nav.children].forEach((b, i) => b.setAttribute("aria-current", String(i === step)));
  const { rows, marks } = steps[step];
  const onlyChanges = byId("changes").checked, removed = byId("removed").checked;
  const near = new Set();
  if (onlyChanges) [...marks].forEach((m, i) => { if (m !== "=") for (let d = -2; d <= 2; d++) near.add(i + d); });
  const parts = [];
  let number = 0, owner = 0, gap = false;
  rows.forEach((line, i) => {
    const mark = marks[i], html = lines[line];
    if (mark !== "-") number += 1;
    if (html.startsWith('<span class="keyword">func<')) owner += 1;
    if ((mark === "-" && !removed) || (onlyChanges && !near.has(i))) {
      if (!gap && mark !== "-") parts.push('<div class="gap">⋯</div>');
      gap = true;
      return;
    }
    gap = false;
    const kind = mark === "+" ? " added" : mark === "-" ? " removed" : "";
    parts.push(`<div class="row${kind}" data-n="${number}" data-f="${owner}">${html || " "}</div>`);
  });
  code.innerHTML = parts.join("");
  select(selected, false);
  find(false);
}

const key = (span) => `${span.closest(".row").dataset.f} ${span.textContent}`;
const spansOf = (wanted) =>
  [...code.querySelectorAll(".row:not(.removed) .value")].filter((span) => key(span) === wanted);

function mark(wanted) {
  code.querySelectorAll(".use, .definition").forEach((s) => s.classList.remove("use", "definition"));
  if (wanted) spansOf(wanted).forEach((s) => s.classList.add(s.classList.contains("d") ? "definition" : "use"));
}

function select(wanted, scroll) {
  selected = wanted;
  mark(wanted);
  const spans = wanted ? spansOf(wanted) : [];
  panel.hidden = !spans.length;
  if (!spans.length) return;
  panel.replaceChildren();
  const heading = document.createElement("h2");
  heading.textContent = spans[0].textContent;
  panel.append(heading);
  const list = (title, found) => {
    const h = document.createElement("h3");
    h.textContent = title;
    panel.append(h);
    found.forEach((span) => {
      const a = document.createElement("a"), row = span.closest(".row");
      a.textContent = `${row.dataset.n}: ${row.textContent.trim()}`;
      a.onclick = () => row.scrollIntoView({ block: "center" });
      panel.append(a);
    });
  };
  const definitions = spans.filter((s) => s.classList.contains("d"));
  const uses = spans.filter((s) => !s.classList.contains("d"));
  list("Defined", definitions);
  const places = definitions.map((s) => s.closest(".row").querySelector(".location")).filter(Boolean);
  if (places.length) {
    const h = document.createElement("h3"), p = document.createElement("div");
    h.textContent = "From";
    p.textContent = places.map((s) => s.textContent.replace(/^\/\/ /, "")).join(", ");
    panel.append(h, p);
  }
  list(uses.length === 1 ? "Used once" : `Used ${uses.length} times`, uses);
  if (scroll && definitions.length) definitions[0].closest(".row").scrollIntoView({ block: "nearest" });
}

code.onclick = (event) => select(event.target.classList.contains("value") ? key(event.target) : null, false);
code.onmouseover = (event) => { if (event.target.classList.contains("value")) mark(key(event.target)); };
code.onmouseout = (event) => { if (event.target.classList.contains("value")) mark(selected); };

function find(move) {
  code.querySelectorAll(".hit, .current").forEach((row) => row.classList.remove("hit", "current"));
  const text = search.value.toLowerCase();
  hits = text ? [...code.querySelectorAll(".row")].filter((r) => r.textContent.toLowerCase().includes(text)) : [];
  hits.forEach((row) => row.classList.add("hit"));
  hit = hits.length ? Math.min(Math.max(hit, 0), hits.length - 1) : -1;
  if (move && hits.length) hits[hit].scrollIntoView({ block: "center" });
  if (hits.length) hits[hit].classList.add("current");
  byId("found").textContent = text ? (hits.length ? `${hit + 1} of ${hits.length} lines` : "nothing") : "";
}
search.oninput = () => { hit = 0; find(true); };
search.onkeydown = (event) => {
  if (event.key === "Escape") { search.value = ""; find(false); code.focus(); }
  if (event.key !== "Enter" || !hits.length) return;
  hit = (hit + (event.shiftKey ? hits.length - 1 : 1)) % hits.length;
  find(true);
};
byId("changes").onchange = byId("removed").onchange = () => show(step);
document.onkeydown = (event) => {
  if (event.target === search) return;
  if (event.key === "/") { event.preventDefault(); search.focus(); }
  if (event.key === "Escape") select(null, false);
  if (event.key === "ArrowLeft" && step > 0) show(step - 1);
  if (event.key === "ArrowRight" && step < steps.length - 1) show(step + 1);
};
show(step);
