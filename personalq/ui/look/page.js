() => {
  // Keys: Ctrl+Enter generates, Esc stops, X flips, 1 to 5 answer the question. Letters and digits only outside fields.
  const press = (selector) => {
    const button = document.querySelector(selector);
    if (button && !button.disabled && button.offsetParent) button.click();
    return Boolean(button);
  };
  const flip = () => {
    const pictures = document.getElementById('pictures');
    if (pictures?.dataset.view === 'Flip') pictures.toggleAttribute('data-flipped');
  };
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest('input:not([type=radio]):not([type=checkbox]):not([type=range]), textarea');
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      press('#go');
    } else if (event.key === 'Escape') {
      const open = document.activeElement?.matches('[role=combobox][aria-expanded=true]');
      if (open || document.querySelector('.fullscreen')) return;  // it closes that
      press('#stop');
      press('#grid-stop');
    } else if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      if (event.key.toLowerCase() === 'x') flip();
      else if (/^[1-5]$/.test(event.key)) document.querySelectorAll('#chat button.option')[event.key - 1]?.click();
    }
  }, true);  // before what Esc closes is gone
  document.addEventListener('click', (event) => {
    if (event.target.closest('#pictures') && !event.target.closest('.icon-button-wrapper')) flip();
  });
  // One element that stays says what happens, each thing once: not every step, nor every file that is read.
  const live = document.createElement('div');
  live.id = 'said';
  live.className = 'pq-hidden';
  live.setAttribute('role', 'status');
  document.body.append(live);
  const spoken = ['#status .pq-status > span', '#progress .pq-progress', '#grid-out .pq-progress',
    '#verdict .pq-progress', '#warning', '#own-said', '#cleared'];
  let before = [];
  const tell = () => {
    const now = spoken.map((part) => (document.querySelector(part)?.textContent ?? '')
      .replace(/ · step .*|: \d+ of \d+…/, '').trim());
    const news = now.filter((text, i) => text && text !== before[i]);
    before = now;
    if (news.length) live.textContent = news.join('. ');
    for (const group of document.querySelectorAll('fieldset')) {  // Gradio names each one apart: no arrow keys
      const radios = group.querySelectorAll('input[type=radio]');
      radios.forEach((one) => { if (one.name !== radios[0].name) one.name = radios[0].name; });
    }
    for (const part of document.querySelectorAll('#chat [role=log], #grid-out .prose:has(table)')) part.tabIndex = 0;
    // Gradio names a message by its source, with every escaped character spelt out; without a name its text is read.
    document.querySelectorAll('#chat [data-testid][aria-label]').forEach((one) => one.removeAttribute('aria-label'));
    document.querySelectorAll('.download-link button').forEach((one) => { one.tabIndex = -1; });  // the link is enough
  };
  new MutationObserver(tell).observe(document.body,
    {childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ['name']});
}
