// The form: all inputs of the model's schema, with their bounds, and the errors beside them.

// Beside what the schema says; the server is the judge.
const BOUNDS = {
  duration: [1, 300],
  seed: [0, 2 ** 32 - 1],
  top_k: [0, null],
  top_p: [0, 1],
  temperature: [0, null],
  classifier_free_guidance: [-100, 100],
  continuation_start: [0, null],
  continuation_end: [0, null],
};
const STEPS = { top_p: 0.05, temperature: 0.1 };
const form = document.querySelector("#form");
const elsewhere = ["prompt", "input_audio", "continuation"]; // not of a plain field

function choicesOf(property, schemas) {
  const name = (property.allOf?.[0] || property).$ref?.split("/").at(-1);
  return name ? schemas[name].enum : property.enum;
}

function fieldOf(name, property, schemas) {
  const label = document.createElement("label");
  label.textContent = name.replaceAll("_", " ");
  label.title = property.description || "";
  const choices = choicesOf(property, schemas);
  const field = document.createElement(choices ? "select" : "input");
  for (const choice of choices || []) field.append(new Option(choice, choice));
  if (property.type === "boolean") field.type = "checkbox";
  else if (!choices) field.type = "number";
  field.name = name;
  label.append(field);
  return label;
}

// Build the fields that the page does not have yet, and set bounds and defaults of all.
export function build({ components: { schemas } }) {
  const properties = Object.entries(schemas.Input.properties).sort((a, b) => a[1]["x-order"] - b[1]["x-order"]);
  for (const [name, property] of properties) {
    if (elsewhere.includes(name)) continue;
    if (!form.elements[name]) {
      const error = Object.assign(document.createElement("p"), { className: "error" });
      error.dataset.error = name;
      document.querySelector("#more").append(fieldOf(name, property, schemas), error);
    }
    const field = form.elements[name];
    const [low, high] = BOUNDS[name] || [];
    if (field.type === "number") Object.assign(field, { min: low ?? "", max: high ?? "", step: STEPS[name] || 1 });
    const bounds = low == null || name === "seed" ? "" : `${low} ${high == null ? "or more" : `to ${high}`}`;
    if (bounds && field.closest("#more")) {
      field.after(Object.assign(document.createElement("small"), { textContent: bounds }));
    }
    if (property.default != null) set(name, property.default);
  }
}

export function set(name, value) {
  const field = form.elements[name];
  if (!field) return;
  if (field.type === "checkbox") field.checked = value;
  else field.value = value ?? "";
}

// The inputs as the API takes them; an empty field is left out.
export function inputs() {
  const result = {};
  for (const field of form.elements) {
    if (!field.name || field.name === "mode") continue;
    if (field.type === "checkbox") result[field.name] = field.checked;
    else if (field.value !== "") result[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  return result;
}

export function clearErrors() {
  for (const error of document.querySelectorAll("[data-error]")) error.textContent = "";
  for (const field of document.querySelectorAll(".wrong")) field.classList.remove("wrong");
}

// Show a sentence at its field, or above the button where there is no such field.
export function showError({ field, sentence }) {
  const place = document.querySelector(`[data-error="${CSS.escape(field)}"]`) || document.querySelector('[data-error=""]');
  place.textContent = sentence;
  form.elements[field]?.classList?.add("wrong");
  place.closest("details")?.setAttribute("open", "");
  place.scrollIntoView({ block: "nearest" });
}

// The first field whose value is outside of its bounds, as a problem.
export function firstProblem() {
  for (const field of form.elements) {
    if (field.name && field.willValidate && !field.checkValidity()) {
      return { field: field.name, sentence: `${field.validationMessage}` };
    }
  }
  return null;
}
