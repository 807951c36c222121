// The picture before and after, and the objects in it. Gradio gives element, props, watch and trigger.
const find = selector => element.querySelector(selector);
const TINT = [[255, 149, 0], [0, 160, 255], [120, 220, 60], [235, 80, 190], [250, 225, 60], [130, 120, 255]];
let grid = null, picture = null, hovered = 0;
let chosen = null, others = [];  // ids of the chosen object, and of those to be merged with it
const placeOf = id => (picture?.objects ?? []).findIndex(object => object.id === id) + 1;

const split = percent => {
  find('.frame').style.setProperty('--split', percent + '%');
  find('.compare input').value = percent;
};

const unpack = async map => {
  const bytes = Uint8Array.from(atob(map.data), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return { ...map, places: new Uint16Array(await new Response(stream).arrayBuffer()) };
};

// Tints the objects: all of them faintly if asked, the one under the pointer and the chosen one clearly.
const paint = () => {
  const canvas = find('canvas');
  if (!grid) { canvas.width = canvas.height = 0; return; }
  const { width, height, places } = grid, all = find('.all input').checked;
  const marked = [chosen, ...others].map(placeOf);
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext('2d'), layer = context.createImageData(width, height);
  for (let at = 0; at < places.length; at++) {
    const place = places[at];
    if (!place) continue;
    const mark = marked.includes(place), strong = mark || place === hovered;
    if (!all && !strong) continue;
    const x = at % width;
    const border = x === 0 || x === width - 1 || at < width || at >= places.length - width
      || places[at - 1] !== place || places[at + 1] !== place
      || places[at - width] !== place || places[at + width] !== place;
    const color = mark ? TINT[0] : all ? TINT[place % TINT.length] : [255, 255, 255];
    layer.data.set([...color, border ? 255 : strong ? 90 : 50], 4 * at);
  }
  context.putImageData(layer, 0, 0);
};

const caption = () => {
  const objects = picture?.objects ?? [], selected = placeOf(chosen), named = objects[(hovered || selected) - 1];
  const hint = !hovered || hovered === selected ? '' : ` – click to choose it${selected ? ', with Shift to add it' : ''}`;
  find('figcaption').textContent = named ? named.label + hint
    : objects.length ? 'Drag the handle to compare. Point at an object and click to change it.' : picture?.note ?? '';
};

const placeAt = event => {
  if (!grid) return 0;
  const box = find('.frame').getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * grid.width);
  const y = Math.floor((event.clientY - box.top) / box.height * grid.height);
  return x >= 0 && y >= 0 && x < grid.width && y < grid.height ? grid.places[y * grid.width + x] : 0;
};

const hover = place => {
  if (place === hovered) return;
  hovered = place;
  find('canvas').classList.toggle('on-object', place > 0);
  paint(); caption();
};

const show = async () => {
  const next = props.value || null;
  find('.viewer').hidden = !next;
  find('.empty').hidden = Boolean(next);
  if (!next) { picture = grid = chosen = null; hovered = 0; others = []; return; }
  const fresh = next.photo !== picture?.photo, remapped = fresh || next.map?.data !== picture?.map?.data;
  picture = next;
  find('.after').src = next.after;
  find('.after').alt = next.alt_after;
  find('.before').src = next.before;
  find('.before').alt = next.alt_before;
  find('.tag-before').textContent = next.tag_before;
  find('.tag-after').textContent = next.tag_after;
  // as wide as its column, but never higher than the window shows
  const frame = find('.frame');
  frame.style.aspectRatio = next.width + ' / ' + next.height;
  frame.style.maxWidth = `calc(72vh * ${next.width / next.height})`;
  find('.all').style.display = next.map ? '' : 'none';
  if (fresh) {
    split(50);
    chosen = null;
    others = [];
  }
  if (remapped) {
    hovered = 0;
    grid = next.map ? await unpack(next.map) : null;
  }
  paint(); caption();
};

const frame = find('.frame'), canvas = find('canvas'), handle = find('.handle');
find('.compare input').addEventListener('input', event => split(event.target.value));
find('.all input').addEventListener('change', paint);
handle.addEventListener('pointerdown', event => handle.setPointerCapture(event.pointerId));
handle.addEventListener('pointermove', event => {
  if (!handle.hasPointerCapture(event.pointerId)) return;
  const box = frame.getBoundingClientRect();
  split(Math.min(100, Math.max(0, (event.clientX - box.left) / box.width * 100)));
});
canvas.addEventListener('pointermove', event => hover(placeAt(event)));
canvas.addEventListener('pointerleave', () => hover(0));
canvas.addEventListener('click', event => {
  const place = placeAt(event);
  if (place) trigger('select', { id: picture.objects[place - 1].id, more: event.shiftKey });
});
// While F is held, the picture on the left is all that one sees: what differs flickers.
const TYPING = 'textarea, input[type=text], input:not([type]), [contenteditable]';
const flicker = on => event => {
  if (event.type !== 'blur' && event.key.toLowerCase() !== 'f') return;
  if (on && (event.ctrlKey || event.metaKey || event.altKey || event.target.closest(TYPING))) return;
  frame.classList.toggle('left-alone', on);
};
window.addEventListener('keydown', flicker(true));
window.addEventListener('keyup', flicker(false));
window.addEventListener('blur', flicker(false));
// The lists of objects, for the keyboard, call these.
window.highlightObject = id => { chosen = id; paint(); caption(); };
window.highlightOthers = ids => { others = ids ?? []; paint(); };
watch('value', show);
show();
