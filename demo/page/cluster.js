// The card that the demo has when it runs as a cluster: which process this
// page is on, and that nothing was lost on the way to another one.
'use strict';

(() => {
  const card = document.createElement('section');
  card.setAttribute('aria-labelledby', 'h-cluster');
  card.innerHTML = `
    <h2 id="h-cluster">Several processes, one service</h2>
    <article class="card" id="cluster">
      <p class="sum"><b id="ticks">–</b><span>process <code id="pid">?</code>
        serves this page: <code>kill -9 <span id="victim">…</span></code>
        and see.<br><span id="lost">0</span> ticks lost,
        <span id="doubled">0</span> doubled</span></p>
      <ol class="heard" id="joins" aria-live="polite"
        aria-label="joins of the topic"></ol>
      <form id="sign">
        <code>name: <input name="name" value="Ada" size="8" maxlength="40"
          aria-label="name" autocomplete="off"></code>
        <button>Sign in</button>
        <button class="plain" type="button">Sign out</button>
      </form>
      <output id="user">not signed in</output>
      <p class="hint">All processes share the login (sessions in files) and
      every push (Redis). The running total and the plain sockets below are
      kept in the memory of one.</p>
    </article>`;
  $('.intro').after(card);

  const show = (id, text) => { $(`#${id}`).textContent = text; };
  let last = null;                       // the newest number that was heard
  let lost = 0;
  let doubled = 0;

  async function look() {
    const {pid, user} = await rpc.call('process');
    show('pid', pid);
    show('victim', pid);
    show('user', user === null ? 'not signed in' : `signed in as ${user}`);
    return pid;
  }

  rpc.addEventListener('onconnect', () => { look().catch(() => {}); });

  // `again`: the publisher was not told whether this one went out (Redis
  // was away just then), and has sent it once more.
  rpc.subscribe('ticks', ({n, again}) => {
    if (last !== null && n > last + 1) {
      lost += n - last - 1;
    } else if (last !== null && n <= last && !again) {
      doubled += 1;
    }
    last = Math.max(last ?? n, n);
    show('ticks', last);
    show('lost', lost);
    show('doubled', doubled);
  }, {
    onjoin: async ({recovered}) => {
      const from = last;
      if (recovered === false) {
        last = null;                     // what came between is not known
      }
      try {
        hear($('#joins'), ` process ${await look()}: recovered `
          + `${recovered}${from === null ? '' : `, after tick ${from}`}`);
      } catch { /* gone again: the next join tells */ }
    },
  });

  async function post(path, fields) {
    await fetch(path, {method: 'POST', body: new URLSearchParams(fields)});
  }

  $('#sign').addEventListener('submit', async (event) => {
    event.preventDefault();
    await post('login', {name: $('#sign input').value});
    rpc.reconnect();                     // its cookie goes with a handshake
  });
  // The server sees that the session has gone and closes: 4401.  Guests are
  // let in here, so the page comes back as one.
  $('#sign button[type=button]').addEventListener('click',
    () => post('logout', {}));
})();
