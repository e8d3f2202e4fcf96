// The panels.  All that a page of your own needs is in the first lines:
// make it, say what the server may call, connect.
'use strict';

const rpc = WSRPC();                     // the endpoint that gave wsrpc.js

rpc.addRoute('whoAreYou', () => navigator.userAgent);
rpc.addRoute('notify', (msg) => hear($('#notify .heard'), msg));
rpc.addRoute('total', showTotal);

// ---- the connection ----------------------------------------------------

const line = $('#line');
let countdown = 0;

rpc.addEventListener('onchange', (state) => {
  clearInterval(countdown);
  line.dataset.state = state;
  $('#state').textContent = {open: 'connected', connecting: 'connecting',
    waiting: 'reconnecting'}[state] ?? 'closed';
  $('#state-aside').textContent = state === 'open' ? location.host : '';
});

rpc.addEventListener('onconnect', () => wire.add('note', 'connected'));

rpc.addEventListener('onclose', ({code, reason, willReconnectInMs}) => {
  wire.add('note', `closed ${code} ${reason ?? ''}`.trim());
  if (willReconnectInMs === null) {
    $('#state-aside').textContent = reason || `code ${code}`;
    return;
  }
  const until = performance.now() + willReconnectInMs;
  const tell = () => {
    const seconds = Math.max(0, until - performance.now()) / 1000;
    const {queued} = rpc.stats;
    $('#state-aside').textContent = `next try in ${seconds.toFixed(1)} s`
      + (queued ? `, ${queued} waiting` : '');
  };
  tell();
  countdown = setInterval(tell, 100);
});

rpc.addEventListener('onframe', ({direction, text}) => {
  wire.add(direction, text);
});

// ---- call the server ---------------------------------------------------

panel('add', ({a, b}) => rpc.call('calc.add', [valueOf(a), valueOf(b)]));
panel('divide', ({a, b}) => rpc.proxy.calc.divide(valueOf(a), valueOf(b)));
panel('fail', ({message}) => rpc.call('fail', [message]));
panel('time', () => rpc.call('getTime'),
  (seconds) => `which is ${new Date(seconds * 1000).toLocaleTimeString()}`);
panel('own', ({method, args}) => (args.trim()
  ? rpc.call(method.trim(), JSON.parse(args)) : rpc.call(method.trim())));

// ---- and it calls back -------------------------------------------------

panel('who', () => rpc.call('test'));
panel('count', () => rpc.proxy.test.count());
panel('fn', ({args}) => rpc.proxy.test.serverSideFunction(
  ...JSON.parse(`[${args}]`)));

// ---- where it runs -----------------------------------------------------

function runLane(lane) {
  const method = lane.dataset.method;
  const seconds = $('input', lane)?.value;
  const output = $('output', lane);
  const bar = $('.track i', lane);
  const since = performance.now();
  output.replaceChildren(element('span', 'pending', 'waiting'));
  bar.className = '';
  const expectedMs = 1000 * (Number(seconds) || 0) + 1;
  const moving = bar.animate([{width: '0'}, {width: '100%'}],
    {duration: expectedMs, fill: 'forwards'});
  return rpc.call(method, seconds === undefined ? [] : [valueOf(seconds)])
    .then((value) => {
      moving.finish();
      bar.className = 'done';
      showValue(output, value, since);
    }, (error) => {
      moving.cancel();
      showError(output, error);
    });
}

const lanes = [...document.querySelectorAll('.lane')];
for (const lane of lanes) {
  $('form', lane).addEventListener('submit', (event) => {
    event.preventDefault();
    runLane(lane);
  });
}
$('#race').addEventListener('click', () => lanes.forEach(runLane));

// ---- push --------------------------------------------------------------

const notifyUrl = (msg) => new URL(
  `notify?msg=${encodeURIComponent(msg)}`, document.baseURI).href;

panel('notify', async ({msg}) => {
  const response = await fetch(notifyUrl(msg));
  return (await response.text()).trim();
});

function showCurl() {
  $('#curl').textContent = `curl '${notifyUrl($('#notify input').value)
    .replaceAll("'", '%27')}'`;
}
$('#notify input').addEventListener('input', showCurl);
showCurl();

$('#copy').addEventListener('click', async ({target}) => {
  try {
    await navigator.clipboard.writeText($('#curl').textContent);
    target.textContent = 'Copied';
  } catch {                              // not on https, or not allowed
    getSelection().selectAllChildren($('#curl'));
    target.textContent = 'Press Ctrl-C';
  }
  setTimeout(() => { target.textContent = 'Copy'; }, 1500);
});

let unsubscribe = null;
panel('news', (values, form) => {
  const button = $('button', form);
  if (unsubscribe) {
    unsubscribe();
    unsubscribe = null;
  } else {
    unsubscribe = rpc.subscribe('news',
      ({msg}) => hear($('#news .heard'), msg),
      {onerror: (error) => showError($('#news output'), error)});
  }
  button.setAttribute('aria-pressed', String(Boolean(unsubscribe)));
  button.textContent = unsubscribe ? 'Unsubscribe' : 'Subscribe';
});

let myName = '';
rpc.subscribe('chat', ({from, text}) => {
  const talk = $('#chat .talk');
  const row = document.createElement('li');
  row.dataset.from = from;
  row.className = from === myName ? 'mine' : '';
  row.append(element('b', '', from), element('span', '', text));
  talk.append(row);
  while (talk.children.length > 50) {
    talk.firstChild.remove();
  }
  talk.scrollTop = talk.scrollHeight;
});
panel('chat', async ({text}, form) => {
  myName = await rpc.proxy.chat.say(text);
  for (const row of document.querySelectorAll('.talk li')) {
    row.classList.toggle('mine', row.dataset.from === myName);
  }
  form.reset();
});

function showTotal(news) {
  $('#sum').textContent = news.split('=').pop();
  $('#sum-news').textContent = news;
}
panel('total', ({n}) => rpc.proxy.total.add(valueOf(n)));

// ---- sockets without RPC -----------------------------------------------

const sockets = new Map();               // path -> its open WebSocket

function socketAt(path) {
  let socket = sockets.get(path);
  if (!socket || socket.readyState > WebSocket.OPEN) {
    const url = new URL(path, document.baseURI);
    url.protocol = url.protocol.replace('http', 'ws');
    socket = new WebSocket(url);
    socket.onmessage = ({data}) => {
      wire.add('in', data, `/${path}`);
      hear($('#plain .heard'), `/${path}: ${data}`);
    };
    socket.onclose = ({code}) => wire.add('note', `/${path} closed ${code}`);
    sockets.set(path, socket);
  }
  return new Promise((resolve, reject) => {
    if (socket.readyState === WebSocket.OPEN) {
      resolve(socket);
    }
    socket.addEventListener('open', () => resolve(socket));
    socket.addEventListener('close', ({code}) => reject(
      new Error(`/${path} could not be opened (${code})`)));
  });
}

panel('plain', async ({path, text}) => {
  const socket = await socketAt(path);
  socket.send(text);
  wire.add('out', text, `/${path}`);
});

rpc.connect();
