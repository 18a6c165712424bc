import { readPage, type Page } from './page';
import { RouterRing } from './routers';

const TIMEOUT_MS = 3_000;

/** delay is how long to wait before asking the nth time: soon at first, then rarely. */
export function delay(n: number): number {
  if (n < 30) return 1_000;
  if (n < 90) return 2_000;
  return 10_000;
}

/**
 * Asks for this very page until it has something to play, at the other routers
 * too when the own one doesn't answer.
 */
export async function untilPlayable(page: Page, changed: (p: Page, doc: Document) => void, signal: AbortSignal): Promise<void> {
  const ring = new RouterRing([location.origin, ...page.routers]);
  let state = page.kind + page.state;
  for (let n = 0; !signal.aborted; n++) {
    await sleep(delay(n), signal);
    const answer = await ask(ring, signal);
    if (answer === null) continue;
    const { page: next, doc } = answer;
    if (next.kind + next.state === state) continue;
    state = next.kind + next.state;
    changed(next, doc);
    if (next.kind === 'player' || (next.kind === 'problem' && !next.retry)) return;
  }
}

async function ask(ring: RouterRing, signal: AbortSignal): Promise<{ page: Page; doc: Document } | null> {
  for (const url of ring.candidates(location.origin + location.pathname + location.search)) {
    try {
      const res = await fetch(url, { cache: 'no-store', signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]) });
      const doc = new DOMParser().parseFromString(await res.text(), 'text/html');
      const page = readPage(doc);
      if (page !== null) {
        ring.answered(url);
        return { page, doc };
      }
    } catch {
      if (signal.aborted) return null;
    }
    ring.failed(url);
  }
  return null;
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const t = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => (clearTimeout(t), resolve()), { once: true });
  });
}
