// What all panels have in common: a form that is a line of code, the
// output below it, and the Python that answers.
'use strict';

const $ = (selector, from = document) => from.querySelector(selector);

// <b class="kind">text</b>, always from text, never from HTML.
function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// What was typed, as a value: '2' -> 2, '"two"' -> 'two', 'two' -> 'two'.
function valueOf(typed) {
  try {
    return JSON.parse(typed);
  } catch {
    return typed;
  }
}

// As JSON.stringify, with room to breathe: '[1, {"a": 2}]'.
function jsonText(value) {
  if (Array.isArray(value)) {
    return `[${value.map(jsonText).join(', ')}]`;
  }
  if (value !== null && typeof value === 'object') {
    return `{${Object.entries(value).map(([name, part]) =>
      `${JSON.stringify(name)}: ${jsonText(part)}`).join(', ')}}`;
  }
  return String(JSON.stringify(value));
}

function took(since) {
  const ms = performance.now() - since;
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

function showValue(output, value, since) {
  output.className = 'ok';
  output.replaceChildren(element('span', 'value', jsonText(value)),
    element('span', 'took', `  in ${took(since)}  `));
}

// RPCError {code: -32000, type: 'ZeroDivisionError', message, data}
function showError(output, error) {
  output.className = 'failed';
  output.replaceChildren(
    element('span', 'kind', error.type || error.name || 'Error'), ' ',
    element('span', 'said', error.message));
  if (error.code !== undefined) {
    output.append(element('span', 'took', `  code ${error.code}`));
  }
  const {traceback, type, ref, ...rest} = Object(error.data);
  if (Object.keys(rest).length) {
    output.append(element('span', 'took', `  data ${jsonText(rest)}`));
  }
  if (traceback) {
    const trace = element('code', 'trace', String(traceback).trim());
    trace.tabIndex = 0;
    output.append(trace);
    trace.scrollTop = trace.scrollHeight;
  }
}

// Runs run(values of the form) when the form inside of #id is sent.  What
// it returns is shown, and with it what explain(value) says of it; undefined
// shows nothing.
function panel(id, run, explain = () => '') {
  const form = $(`#${id} form`);
  const output = $(`#${id} output`);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const since = performance.now();
    output.className = 'waiting';
    output.replaceChildren(element('span', 'pending', 'waiting'));
    try {
      const value = await run(Object.fromEntries(new FormData(form)), form);
      if (value === undefined) {
        output.replaceChildren();
      } else {
        showValue(output, value, since);
        output.append(element('span', 'said', explain(value)));
      }
    } catch (error) {
      showError(output, error);
    }
  });
}

// A line in a list that tells what came in; the oldest go.
function hear(list, text, maxRows = 30) {
  const row = document.createElement('li');
  const clock = new Date().toLocaleTimeString('en-GB');
  row.append(element('time', '', clock), text);
  list.append(row);
  while (list.children.length > maxRows) {
    list.firstChild.remove();
  }
  list.scrollTop = list.scrollHeight;
}

// Python in three colours, which is enough to read it.
function paintPython(pre, text) {
  const token = /("""[^]*?"""|'[^'\n]*')|(#.*)|(@[\w.]+|\b(?:async|await|class|def|else|except|for|from|if|import|in|not|return|raise|self|try|with)\b)/g;
  let at = 0;
  for (const found of text.matchAll(token)) {
    pre.append(text.slice(at, found.index),
      element('span', found[1] ? 'st' : found[2] ? 'co' : 'kw', found[0]));
    at = found.index + found[0].length;
  }
  pre.append(text.slice(at));
}

for (const code of document.querySelectorAll('.sample code')) {
  const text = code.textContent;
  code.replaceChildren();
  paintPython(code, text);
}

async function showSources() {
  const response = await fetch('source');
  const sources = response.ok ? await response.json() : {};
  for (const details of document.querySelectorAll('details')) {
    const names = details.dataset.source?.split(' ') ?? [];
    const text = details.dataset.text
      ?? names.map((name) => sources[name]).join('\n\n');
    const pre = element('pre', '', '');
    pre.tabIndex = 0;
    paintPython(pre, text);
    details.replaceChildren(element('summary', '', 'Python'), pre);
  }
}

showSources();
