// Building elements. Data becomes text nodes and nothing else: there is no innerHTML in this page.

const SVG = "http://www.w3.org/2000/svg";

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "scope" || name === "for") {
      node.setAttribute(name, value);
    } else if (name === "on") {
      for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    } else {
      node[name] = value;
    }
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function svg(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const byId = (id) => document.getElementById(id);
const dataOf = (name) => JSON.parse(byId(`data-${name}`).textContent);
const distinct = (values) => [...new Set(values)];

// A labelled select over [value, text] pairs.
function choice(label, options, change, properties = {}) {
  const select = el("select", { ...properties, on: { change } });
  fill(select, options);
  return { field: el("label", {}, label, select), select };
}

function fill(select, options) {
  select.replaceChildren(
    ...options.map(([value, text]) => el("option", { value, textContent: text })),
  );
}

// Two decimals, or scientific where those would show nothing or too much.
function number(value, decimals = 2) {
  if (value === null) return "-";
  const plain = value === 0 || (Math.abs(value) >= 10 ** -decimals && Math.abs(value) < 10000);
  return plain ? value.toFixed(decimals) : value.toExponential(1);
}

// Draw a section once the page has opened, so that a big report opens at once; whoever prints or
// captures it then has it whole, wherever it is scrolled to.
function onceOpen(draw) {
  let drawn = false;
  const once = () => {
    if (!drawn) draw();
    drawn = true;
  };
  window.addEventListener("load", () => setTimeout(once));
  window.addEventListener("beforeprint", once);
}

const methods = [];
// The colour of a method; its name always stands beside it.
function hue(method) {
  if (!methods.includes(method)) methods.push(method);
  return `hue-${methods.indexOf(method) % 8}`;
}
