import './style.css';
import { readPage, type Page } from './page';
import { untilPlayable } from './poll';
import { showPlayer } from './view';

const root = document.getElementById('app');
const page = readPage(document);
if (root && page) show(root, page);

function show(root: HTMLElement, page: Page): void {
  document.body.classList.toggle('embed', page.embed);
  if (page.kind === 'player') {
    showPlayer(root, page);
    return;
  }
  // The server has rendered what to read; wait with it while waiting can help.
  if (page.kind === 'problem' && !page.retry) return;
  const abort = new AbortController();
  const changed = (next: Page, doc: Document) => {
    if (page.kind === 'problem') {
      // This document's security policy doesn't know the edges yet.
      location.reload();
      return;
    }
    document.title = doc.title;
    if (next.kind === 'player') {
      abort.abort();
      // In place: a reload would lose the viewer's gesture, and with it the sound.
      show(root, next);
      return;
    }
    root.replaceChildren(...(doc.getElementById('app')?.childNodes ?? []));
  };
  void untilPlayable(page, changed, abort.signal);
}
