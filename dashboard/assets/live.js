// Changes an open page in place. Figures and cells change; rows never come, go or move by
// themselves: new ones are offered, and those that left are dimmed.
'use strict';
(() => {
  const url = document.body.dataset.live;
  const status = document.getElementById('status');
  const text = document.getElementById('status-text');
  const announce = document.getElementById('announce');
  const heading = document.title.replace(/^▲\d+ · /, '');
  const SILENCE = 7000; // three ticks were missed
  let source = null, told = 0, asOf = '', trouble = '', lost = '';

  const say = (state, words) => {
    if (status.dataset.state !== state) {
      // Read aloud is only what changed: that the line broke, and that it is back.
      const was = status.dataset.state;
      status.dataset.state = state;
      if (state === 'stale' || was === 'stale') announce.textContent = state === 'stale' ? words : 'live again';
    }
    document.body.classList.toggle('stale', state === 'stale');
    if (text.textContent !== words) text.textContent = words;
  };
  const look = () => {
    if (document.hidden) return say('paused', `paused · as of ${asOf} UTC`);
    if (trouble) return say('stale', `stale, as of ${asOf} UTC · ${trouble}`);
    const silent = Date.now() - told;
    if (source && silent < SILENCE) return say('live', `live · ${asOf} UTC`);
    const since = lost || new Date(told).toISOString().slice(11, 19);
    say('stale', `stale · no connection since ${since} UTC`);
  };

  // What a hand is on holds still: a selection, or the focus.
  const held = (element) => {
    if (element.contains(document.activeElement)) return true;
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && selection.containsNode(element, true);
  };
  const parse = (html) => {
    const template = document.createElement('template');
    template.innerHTML = html;
    return template.content;
  };
  const rows = (body, html) => {
    const next = new Map([...parse(html).children].map((row) => [row.dataset.key, row]));
    for (const row of body.rows) {
      const to = next.get(row.dataset.key);
      row.classList.toggle('gone', !to);
      if (!to) continue;
      next.delete(row.dataset.key);
      [...to.cells].forEach((cell, at) => {
        const own = row.cells[at];
        if (own && own.innerHTML !== cell.innerHTML && !held(own)) {
          own.innerHTML = cell.innerHTML;
          own.title = cell.title;
        }
      });
    }
    const offer = document.querySelector(`.offer[data-for="${body.id}"]`);
    // A key that no name can be is of a remark.
    const fresh = [...next.keys()].filter((key) => key && !key.startsWith('+')).length;
    offer.hidden = fresh === 0;
    offer.textContent = `+${fresh} new — show`;
    offer.onclick = () => {
      body.innerHTML = html;
      offer.hidden = true;
    };
  };
  const part = (data) => {
    const cut = data.indexOf('\n');
    const element = document.getElementById(data.slice(0, cut));
    const html = data.slice(cut + 1);
    if (!element) return;
    if ('rows' in element.dataset) rows(element, html);
    else if (!held(element)) element.innerHTML = html;
  };

  const open = () => {
    if (source) return;
    told = Date.now();
    source = new EventSource(url);
    source.addEventListener('part', (event) => part(event.data));
    source.addEventListener('tick', (event) => {
      const [time, problems] = event.data.split(' ');
      told = Date.now();
      asOf = time;
      trouble = lost = '';
      document.title = problems === '0' ? heading : `▲${problems} · ${heading}`;
      look();
    });
    source.addEventListener('trouble', (event) => {
      told = Date.now();
      trouble = event.data;
      look();
    });
    source.onerror = () => {
      if (!lost) lost = new Date().toISOString().slice(11, 19);
      told = 0;
      // A refusal ends it: ask again, but not at once.
      if (source && source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(() => document.hidden || open(), 10000);
      }
      look();
    };
  };
  const close = () => {
    if (source) source.close();
    source = null;
  };

  asOf = text.querySelector('time').textContent;
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) close();
    else open();
    look();
  });
  setInterval(look, 1000);
  if (!document.hidden) open();
})();
