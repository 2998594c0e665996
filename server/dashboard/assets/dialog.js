// Nothing is changed without saying before what will happen.

import { h } from "./dom.js";

/**
 * Asks before a change. `says` are sentences about what it does; `fields` are {name, label, type, value, hint, …} of a
 * form, `run` makes the change of their values. Resolves to whether it was made.
 */
export function confirm({ title, says, fields = [], yes, danger = false, run }) {
  return new Promise((resolve) => {
    const trouble = h("p", { class: "trouble", role: "alert" });
    const inputs = fields.map((field) => [field, input(field)]);
    const go = h("button", { class: danger ? "button danger" : "button main", type: "submit" }, yes);
    const form = h("form", { method: "dialog", onsubmit: submit },
      h("h2", { id: "dialog-title" }, title),
      says.map((sentence) => h("p", {}, sentence)),
      inputs.map(([field, control]) => h("label", { class: field.type === "checkbox" ? "check" : "field" },
        h("span", {}, field.label), control, field.hint && h("small", {}, field.hint))),
      trouble,
      h("div", { class: "buttons" },
        h("button", { class: "button", type: "button", onclick: () => dialog.close() }, "Cancel"), go));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: closed }, form);
    let made = false;

    async function submit(event) {
      event.preventDefault();
      go.disabled = true;
      trouble.textContent = "";
      try {
        const values = Object.fromEntries(inputs.map(([field, control]) =>
          [field.name, field.type === "checkbox" ? control.checked : control.value]));
        await run(values);
        made = true;
        dialog.close();
      } catch (error) {
        trouble.textContent = `Nothing was changed: ${error.message}.`;
      } finally {
        go.disabled = false;
      }
    }

    function closed() {
      dialog.remove();
      resolve(made);
    }

    document.body.append(dialog);
    dialog.showModal();
    (inputs[0]?.[1] ?? go).focus();
  });
}

function input(field) {
  const { type = "text", name, value = "", options, required = false, ...rest } = field;
  delete rest.label;
  delete rest.hint;
  if (options) {
    return h("select", { name, ...rest }, options.map((option) =>
      h("option", { value: option.value, selected: option.value === value }, option.label)));
  }
  if (type === "area") return h("textarea", { name, rows: 8, spellcheck: "false", ...rest }, value);
  if (type === "checkbox") return h("input", { name, type, checked: Boolean(value) });
  return h("input", { name, type, value, required, autocomplete: "off", ...rest });
}
