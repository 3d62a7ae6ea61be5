"""Clicks inside HTML panels as `select` events: `index` is the element's data-index, `value` its data-action."""

CLICKS = """
element.addEventListener('click', (event) => {
  const hit = event.target.closest('[data-index]');
  if (hit) trigger('select', {index: Number(hit.dataset.index), value: hit.dataset.action || null});
});
"""
