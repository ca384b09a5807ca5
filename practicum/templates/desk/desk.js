"use strict";
// Saves each score as soon as its points and its reason are there; what is not saved stays in its field.
const xsrf = document.querySelector("meta[name=xsrf]").content;
const forms = [...document.querySelectorAll("form.score")];

const fields = (form) => [form.elements.points, form.elements.reason];
const unsaved = (form) => fields(form).some((field) => field.validity.badInput || field.value !== field.defaultValue);

function tell(form, text, kind, field) {
  const output = form.querySelector("output");
  output.textContent = text;
  output.className = kind;
  for (const one of fields(form)) one.setAttribute("aria-invalid", one === field);
}

function lacking(form, withdraw) {
  const [points, reason] = fields(form);
  if (!withdraw && points.validity.badInput) return ["not saved: the points are no number", points];
  if (!withdraw && points.value === "") return ["not saved yet: the points are missing", points];
  if (!reason.value.trim()) return ["not saved yet: the reason is missing", reason];
  if (!withdraw && !points.validity.valid && points.value !== points.defaultValue)
    return [`not saved: write ${points.min} to ${points.max} in steps of ${points.step}`, points];
  return null;
}

async function save(form, withdraw) {
  const [points, reason] = fields(form);
  const lacks = lacking(form, withdraw);
  if (lacks) return tell(form, lacks[0], "bad", lacks[1]);
  const sent = [points.value, reason.value];
  tell(form, "saving", "");
  let answer;
  try {
    const said = { ...form.dataset, points: sent[0], reason: sent[1], action: withdraw ? "withdraw" : "score" };
    const headers = { "X-XSRFToken": xsrf };
    answer = await (await fetch("/score", { method: "POST", headers, body: new URLSearchParams(said) })).json();
  } catch {
    return tell(form, "not saved: the desk does not answer (does `practicum desk` still run?); your text stays here", "bad");
  }
  if (answer.standing === undefined) return tell(form, `not saved: ${answer.error}`, "bad");
  form.dataset.n = answer.n;
  form.dataset.snapshot = answer.snapshot;
  (form.closest("details.override") || form).previousElementSibling.innerHTML = answer.standing;
  document.getElementById("totals").innerHTML = answer.totals;
  form.elements.withdraw.hidden = answer.points === "";
  if (answer.error) return tell(form, `not saved: ${answer.error}`, "bad");
  points.defaultValue = answer.points;
  reason.defaultValue = answer.reason;
  if (withdraw) {
    points.value = answer.points;
    reason.value = answer.reason;
  } else if (reason.value === sent[1]) reason.value = answer.reason; // without blanks at its ends
  tell(form, answer.said, "good");
}

for (const form of forms) {
  let queue = Promise.resolve(); // one at a time, since each answer has the number that the next is sent with
  const enqueue = (job) => (queue = queue.then(job));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    enqueue(() => unsaved(form) && save(form, false));
  });
  form.addEventListener("change", () => enqueue(() => unsaved(form) && save(form, false)));
  form.addEventListener("input", () => tell(form, "not saved yet", ""));
  form.elements.withdraw.addEventListener("click", () => enqueue(() => save(form, true)));
  form.elements.reason.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.elements.points.addEventListener("wheel", (event) => event.target.blur()); // else scrolling changes the points
}

addEventListener("beforeunload", (event) => {
  if (forms.some(unsaved)) event.preventDefault();
});
