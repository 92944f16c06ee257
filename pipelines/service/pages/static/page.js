"use strict";

const form = document.getElementById("form");
const answer = document.getElementById("answer");
const send = document.getElementById("send");
const inputs = [...form.querySelectorAll("[data-name]")];

// Text, never HTML: what the service answers is put on the page as it is.
function element(name, className, ...inside) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...inside);
  return made;
}

function number(text) {
  // A long whole number goes as it was typed: a float would round it.
  return /^-?(0|[1-9]\d*)$/.test(text) ? text : JSON.stringify(Number(text));
}

// A picture's file as base64: the one chosen, else the example's.
async function file(input) {
  const [chosen] = input.files;
  if (!chosen) return input.dataset.file;
  const bytes = new Uint8Array(await chosen.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

// One row as JSON, or null when a number's field holds none.
async function written() {
  const members = [];
  for (const input of inputs) {
    const { name, kind, empty } = input.dataset;
    let value;
    if (input.validity.badInput) {
      complain(input, kind === "time" ? "This is no time." : "This is no number.");
      return null;
    }
    if (kind === "file") value = JSON.stringify(await file(input));
    else if (input.value === "" && empty !== "text") {
      if (empty === "omit") continue;
      value = "null";
    } else if (kind === "number") value = number(input.value);
    else if (kind === "boolean") value = input.value;
    else if (kind === "time" && input.value.length === 16) value = JSON.stringify(`${input.value}:00`);
    else value = JSON.stringify(input.value);
    members.push(`${JSON.stringify(name)}:${value}`);
  }
  return `{"rows":[{${members.join(",")}}]}`;
}

function complain(input, message) {
  const place = document.getElementById(`${input.id}-error`);
  place.textContent = message;
  place.hidden = false;
  input.setAttribute("aria-invalid", "true");
}

function clear() {
  for (const input of inputs) {
    input.removeAttribute("aria-invalid");
    document.getElementById(`${input.id}-error`).hidden = true;
  }
}

function show(failed, ...parts) {
  answer.parentElement.classList.toggle("failed", failed);
  answer.replaceChildren(...parts);
  const wrong = form.querySelector("[aria-invalid]");
  if (wrong) wrong.focus();
  else answer.parentElement.scrollIntoView({ block: "nearest" });
}

function answered({ version, predictions: [{ id, probability, prediction, probabilities }] }) {
  const { label, version: known } = form.dataset;
  const percent = (100 * probability).toFixed(1);
  const meter = element("meter");
  meter.value = probability;
  meter.setAttribute("aria-hidden", "true");
  const parts = [
    element("p", "probability", `${percent} %`),
    meter,
    probabilities
      ? element("p", "", "is the probability of ", element("strong", "", `${label}: ${prediction}`))
      : element("p", "", `is the probability of ${label} = 1, so the prediction is `,
        element("strong", "", `${label}: ${prediction ? "yes (1)" : "no (0)"}`)),
    ...others(probabilities, prediction),
    element("p", "", `Answered by version ${version}.`),
    element("p", "", "Prediction id ", element("code", "id", id)),
    element("p", "", "Where it comes from: ", element("code", "", `perennial trace ${id}`)),
  ];
  if (known !== version) {
    parts.push(element("p", "", "Not the version that this page tells of: load it again."));
  }
  show(false, ...parts);
}

// The other classes, the likeliest first.
function others(probabilities = {}, prediction) {
  const rest = Object.entries(probabilities).filter(([name]) => name !== prediction);
  if (!rest.length) return [];
  rest.sort(([, one], [, other]) => other - one);
  const told = rest.map(([name, p]) => element("li", "", `${name}: ${(100 * p).toFixed(1)} %`));
  return [element("ol", "others", ...told)];
}

function refused({ title, detail, errors = [] }) {
  const elsewhere = [];
  const marked = [];
  for (const { field, message } of errors) {
    const input = inputs.find(({ dataset }) => field === `rows[0].${dataset.name}`);
    if (input) {
      complain(input, message.replace("rows[0].", ""));
      marked.push(input.dataset.name);
    } else elsewhere.push(element("li", "", message));
  }
  const parts = [element("p", "error", title ?? "Refused")];
  if (marked.length) parts.push(element("p", "", `Look at: ${marked.join(", ")}`));
  else if (!elsewhere.length) parts.push(element("p", "", detail ?? ""));
  if (elsewhere.length) parts.push(element("ul", "", ...elsewhere));
  show(true, ...parts);
}

async function ask() {
  clear();
  const body = await written();
  if (body === null) {
    show(true, element("p", "error", "Not sent: a field cannot be read."));
    return;
  }
  send.disabled = true;
  try {
    const headers = { "content-type": "application/json" };
    const response = await fetch("predict", { method: "POST", headers, body });
    const said = await response.json();
    if (response.ok) answered(said);
    else refused(said);
  } catch (error) {
    show(true, element("p", "error", "No answer came."), element("p", "", String(error)));
  } finally {
    send.disabled = false;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
form.addEventListener("reset", clear);
// What is asked about is what is seen: the file that was chosen, or the example again.
for (const input of inputs.filter(({ type }) => type === "file")) {
  const picture = document.getElementById(`${input.id}-picture`);
  const draw = async () => { if (picture) picture.src = `data:;base64,${await file(input)}`; };
  input.addEventListener("change", draw);
  form.addEventListener("reset", () => setTimeout(draw));
}
send.disabled = false;
