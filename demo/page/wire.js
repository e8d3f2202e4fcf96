// The log at the side: every frame, as it goes.  Says nothing about what
// the frames mean.
'use strict';

const wire = (() => {
  const MAX_ROWS = 200;
  const MAX_CHARS = 600;
  const list = document.getElementById('wire');
  const counter = document.getElementById('wire-count');
  const pause = document.getElementById('wire-pause');
  let paused = false;
  let seen = 0;

  function clock() {
    const now = new Date();
    return now.toLocaleTimeString('en-GB') + '.'
      + String(now.getMilliseconds()).padStart(3, '0');
  }

  // '{"id":3}' -> spans for keys, strings and numbers.  Built from text
  // nodes: what comes over the wire is never read as HTML.
  function paint(text, row) {
    const token = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d[\d.eE+-]*|true|false|null)/g;
    let at = 0;
    for (const found of text.matchAll(token)) {
      row.append(text.slice(at, found.index));
      const span = document.createElement('span');
      span.className = found[2] ? 'key' : found[1] ? 'str' : 'num';
      span.textContent = found[0];
      row.append(document.createElement('wbr'), span);
      at = found.index + found[0].length;
    }
    row.append(text.slice(at));
  }

  // kind: 'in' | 'out' | 'note'
  function add(kind, text, origin = '') {
    if (paused) {
      return;
    }
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const row = document.createElement('li');
    row.className = kind;
    const arrow = document.createElement('b');
    arrow.textContent = {in: '←', out: '→', note: '•'}[kind];
    arrow.ariaLabel = {in: 'received', out: 'sent', note: 'note'}[kind];
    const time = document.createElement('time');
    time.textContent = `${clock()} ${origin}`;
    const body = document.createElement('div');
    const shown = text.length > MAX_CHARS
      ? `${text.slice(0, MAX_CHARS)} … ${text.length} characters` : text;
    body.append(time);
    if (kind === 'note') {
      body.append(shown);
    } else {
      paint(shown, body);
      seen += 1;
      counter.textContent = `${seen} frame${seen === 1 ? '' : 's'}`;
    }
    row.append(arrow, body);
    list.append(row);
    while (list.children.length > MAX_ROWS) {
      list.firstChild.remove();
    }
    if (atEnd) {
      list.scrollTop = list.scrollHeight;
    }
  }

  pause.addEventListener('click', () => {
    paused = !paused;
    pause.setAttribute('aria-pressed', String(paused));
    pause.textContent = paused ? 'Paused' : 'Pause';
  });
  document.getElementById('wire-clear').addEventListener('click', () => {
    list.replaceChildren();
    seen = 0;
    counter.textContent = '';
  });
  return {add};
})();
